"""``foretune serve`` with its worker: what it refuses, and that nothing is left behind."""

import os
import signal
import socket
import time
from pathlib import Path

from tests.cli.conftest import processes_of, run, start, wait_until, wait_until_ready
from tests.fixtures.servers import free_port


def test_a_port_in_use_is_told_before_anything_is_made(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run("serve", "--port", port, home=str(tmp_path / "home"))
    assert (done.code, done.out) == (1, "")
    assert f"127.0.0.1 port {port}: Address already in use. (port_in_use)" in done.err
    assert not (tmp_path / "home").exists()


def test_serve_keeps_a_worker_and_leaves_nothing_behind(tmp_path: Path) -> None:
    home, elsewhere = tmp_path / "home", tmp_path / "project"
    manifest = tmp_path / "zoo.yaml"
    manifest.write_text("models: []\n")
    for package in ("app", "workers"):  # a folder to work in may have packages of these names
        (elsewhere / package).mkdir(parents=True)
        (elsewhere / package / "__init__.py").write_text("raise ImportError('not this one')\n")
    port = free_port()
    variables = {"home": str(home), "zoo_manifest": str(manifest)}
    service = start("serve", "--port", str(port), cwd=elsewhere, **variables)
    try:
        wait_until_ready(f"http://127.0.0.1:{port}")
        second = run("serve", "--port", str(free_port()), **variables)
        assert (second.code, "(home_in_use)" in second.err) == (1, True)
        assert f"Process {service.pid} keeps" in second.err

        (killed,) = supervisors(home)
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: supervisors(home) - {killed} != set())
    finally:
        service.send_signal(signal.SIGINT)
        out, err = service.communicate(timeout=40)
    assert service.returncode == 0, err
    assert str(home / "admin.key") in out
    assert "Traceback" not in err
    wait_until(lambda: not processes_of(home), seconds=15)


def test_sigterm_ends_a_service_that_somebody_watches(tmp_path: Path) -> None:
    port = free_port()
    service = start("serve", "--api-only", "--port", str(port), home=str(tmp_path))
    try:
        wait_until(lambda: answers(port))
        with socket.create_connection(("127.0.0.1", port)) as open_connection:
            open_connection.sendall(b"GET /v1/models?")  # a request that never ends
            stopped = time.monotonic()
            service.terminate()
            _, err = service.communicate(timeout=20)
    finally:
        service.kill()
    assert service.returncode == 0, err
    assert time.monotonic() - stopped < 8
    assert "Traceback" not in err


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True


def supervisors(home: Path) -> set[int]:
    return {pid for pid, command in processes_of(home).items() if "workers.supervise" in command}
