"""``foretune scores``, which needs no service.

Legend: N images, D feature dimensions.
"""

import io
import json
import os
import re
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout

import numpy as np
import pytest

from app.cli import main
from app.scoring import SCORES, compute, measure, synthetic
from tests.cli.conftest import ROOT, Done, environment

DOCUMENT = (ROOT / "docs" / "own-score.md").read_text(encoding="utf-8")
FILE = re.search(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)[1]


def scores(*arguments):
    out, err, argv = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["foretune", "scores", *map(str, arguments)]
    try:
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
            main()
    finally:
        sys.argv = argv
    return Done(int(ended.value.code or 0), out.getvalue(), err.getvalue())


def scores_beside(folder, *arguments):
    """Run the command in a process of its own that finds the packages in a folder."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "app.cli", "scores", *map(str, arguments)],
        env=environment() | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)])},
        capture_output=True,
        text=True,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def install(folder, name, entry_points, **modules):
    """Lay out a package as pip leaves it."""
    information = folder / f"{name}-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = "".join(f"{entry} = {target}\n" for entry, target in entry_points.items())
    (information / "entry_points.txt").write_text(f"[foretune.scores]\n{lines}")
    for module, text in modules.items():
        (folder / f"{module}.py").write_text(text)


@pytest.fixture
def file(tmp_path):
    sample = synthetic.noisy_classes(40, 6)
    path = tmp_path / "features.npz"
    np.savez(path, features=sample.features_ND.astype(np.float32), labels=np.array(["a", "b", "c"])[sample.labels_N])
    return path


def test_list_has_every_score_once():
    done = scores("list")
    assert done.code == 0
    for name, score in SCORES.items():
        assert len(re.findall(rf"^{name} .*{re.escape(score.meaning)}", done.out, re.MULTILINE)) == 1
    listed = scores("list", "--json").json
    assert [one["name"] for one in listed] == list(SCORES)
    assert listed[0]["invariances"] == sorted(SCORES[listed[0]["name"]].invariances)


def test_explain_tells_the_whole_statement():
    done = scores("explain", "pactran_gamma")
    for told in ("arXiv:2203.05126", "source_probabilities", "turned", "n Z C", "class names"):
        assert told in done.out
    for name in ("nleep", "linear_probe"):
        assert scores("explain", name, "--json").json["stochastic"] is True
    unknown = scores("explain", "lfg")
    assert unknown.code == 1
    assert "(unknown_score)" in unknown.err
    assert "lfc" in unknown.err


def test_run_computes_what_the_file_allows(file):
    done = scores("run", file, "--json")
    assert done.code == 0
    rows = {row["score"]: row for row in done.json}
    assert {"lfc", "linear_probe", "nleep", "rankme"} <= set(rows)
    assert not {"leep", "otce", "rsa", "parameters"} & set(rows)
    with np.load(file) as arrays:
        expected = compute("lfc_centered", arrays["features"], arrays["labels"])
    assert rows["lfc_centered"]["value"] == expected.value
    assert rows["lfc_centered"]["stderr"] == expected.stderr
    assert not any(row["error"] for row in rows.values())


def test_a_refused_score_does_not_spoil_the_others(file):
    done = scores("run", file, "--score", "leep", "--score", "lfc")
    assert done.code == 0
    assert re.search(r"^lfc +0\.\d+ +0\.\d+", done.out, re.MULTILINE)
    assert re.search(r"^leep not computed: .*\(source_head_required\) Leave", done.out, re.MULTILINE)
    alone = scores("run", file, "--score", "leep", "--json")
    assert alone.code == 1
    assert alone.json[0]["error"]["code"] == "source_head_required"


def test_run_reads_every_input(tmp_path):
    sample = synthetic.noisy_classes(40, 6)
    weights_Z = np.arange(1.0, len(sample.means_ZD) + 1)
    np.savez(
        tmp_path / "all.npz",
        features=sample.features_ND,
        labels=sample.labels_N,
        source_probabilities=sample.probabilities_NZ,
        reference_features=sample.reference_NR,
        source_means=sample.means_ZD,
        source_weights=weights_Z,
        units=np.arange(40) // 2,
        parameters=2.5e7,
    )
    chosen = ("leep", "otce", "domain_similarity", "parameters", "flops", "rsa")
    done = scores("run", tmp_path / "all.npz", "--json", *(part for name in chosen for part in ("--score", name)))
    rows = {row["score"]: row for row in done.json}
    for name in ("leep", "otce", "domain_similarity", "rsa"):
        assert rows[name]["value"] == measure(name, sample.panel()).value
    assert rows["parameters"]["value"] == pytest.approx(7.39794)
    assert rows["flops"]["error"]["code"] == "fact_unknown"


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"features": np.eye(4)}, "no array named 'labels', only features"),
        ({"labels": np.arange(4)}, "no array named 'features'"),
        ({"features": np.eye(4), "labels": np.arange(4), "Labels": np.arange(4)}, "an array named 'Labels'"),
        ({"features": np.eye(4), "labels": np.array(["a", 1, "b", 2], dtype=object)}, "Python objects in the array"),
        ({"features": np.eye(4), "labels": np.arange(4) // 2, "source_means": np.eye(4)}, "without the other"),
        ({"features": np.eye(4), "labels": np.arange(4) // 2, "flops": np.ones(2)}, "as 'flops'"),
        ({"features": np.eye(4), "labels": np.arange(3)}, "expected one label for each of 4 images"),
    ],
)
def test_files_with_wrong_arrays(tmp_path, arrays, told):
    np.savez(tmp_path / "wrong.npz", **arrays)
    done = scores("run", tmp_path / "wrong.npz")
    assert (done.code, done.out) == (1, "")
    assert told in done.err
    assert "Hint: " in done.err


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 broken", b"features,labels\n1,2\n", None])
def test_files_that_are_no_npz(tmp_path, content):
    path = tmp_path / "wrong.npz"
    if content is not None:
        path.write_bytes(content)
    done = scores("run", path, "--json")
    assert (done.code, done.out) == (1, "")
    error = json.loads(done.err)["error"]
    assert error["code"] == ("file_not_readable" if content is None else "invalid_feature_file")
    assert error["hint"]


def test_a_single_array_is_no_feature_file(tmp_path):
    np.save(tmp_path / "one.npy", np.eye(3))
    assert "holds a single array" in scores("run", tmp_path / "one.npy").err


def test_a_folder_of_arrays(tmp_path, file):
    with np.load(file) as arrays:
        for name in arrays:
            np.save(tmp_path / f"{name}.npy", arrays[name])
    chosen = ("--score", "lfc", "--score", "knn", "--json")
    done = scores("run", tmp_path, *chosen)
    assert done.code == 0
    assert done.json == scores("run", file, *chosen).json
    (tmp_path / "units.npy").write_bytes(b"1,2")
    broken = scores("run", tmp_path)
    assert broken.code == 1
    assert "not a whole npy file" in broken.err
    (tmp_path / "units.npy").unlink()
    (tmp_path / "labels.npy").unlink()
    assert "has no array named 'labels', only features" in scores("run", tmp_path).err


def test_the_worked_example_passes_as_documented(tmp_path):
    (tmp_path / "centre_margin.py").write_text(FILE)
    done = scores("check", tmp_path / "centre_margin.py")
    assert done.code == 0
    documented = re.search(r"\$ foretune scores check centre_margin.py\n(.*?)```", DOCUMENT, re.DOTALL)[1]
    assert done.out == documented
    assert all(answer["passed"] for answer in scores("check", tmp_path / "centre_margin.py", "--json").json)


@pytest.mark.parametrize(
    ("old", "new", "failing"),
    [
        ('"scale", "offset", ', '"offset", ', "changed by scale"),
        ("panel.centred_ND, panel.labels_N", "panel.features_ND**2, panel.labels_N", "unchanged by rotation"),
        ("if panel.constant:", "if False:", None),
        ("value=float(margin_N.mean())", "value=-float(margin_N.mean())", "larger is better"),
        ("value=float(margin_N.mean())", "value=float(margin_N.mean() + np.random.rand())", "the same on every run"),
        ("where=total_N > 0", "where=total_N > -1", "odd input: all features zero"),
        ('meaning="How', 'meaning="" and "How', "the statement is complete"),
        ("    own_N = ", "    x_ND *= 2\n    own_N = ", "the input is left alone"),
        (":centre_margin", ":margin_of_centres", "larger is better"),
    ],
)
def test_broken_promises_are_found(tmp_path, old, new, failing):
    text = FILE.replace("    if panel.constant:", "    if False:") if "total_N" in old else FILE
    assert old in text
    (tmp_path / "mine.py").write_text(text.replace(old, new))
    done = scores("check", tmp_path / "mine.py", "--json")
    failed = [answer["check"] for answer in done.json if not answer["passed"]]
    assert done.code == bool(failed)
    assert failing in failed if failing else not failed
    assert len(done.json) == 22


def test_files_that_define_no_score(tmp_path):
    for text, code in {
        "import nothing_of_this_name": "score_file_failed",
        "x = 1": "no_scores_defined",
        FILE.replace('name="centre_margin"', 'name="lfc"'): "score_name_taken",
    }.items():
        (tmp_path / "mine.py").write_text(text)
        done = scores("check", tmp_path / "mine.py", "--json")
        assert (done.code, done.out) == (1, "")
        assert json.loads(done.err)["error"]["code"] == code
    assert "(score_file_failed)" in scores("check", tmp_path / "none.py").err
    assert "(score_file_failed)" in scores("check", ROOT / "README.md").err


def test_a_score_that_prints_or_leaves_does_not_spoil_the_answer(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "print('loading')\n" + FILE.replace("    if panel.constant:", "    print('hello')\n    if panel.constant:")
    )
    done = scores("check", path, "--json")
    assert (done.code, len(done.json)) == (0, 22)
    assert "loading" in done.err
    path.write_text(FILE.replace("    if panel.constant:", "    raise SystemExit(0)\n    if panel.constant:"))
    done = scores("check", path, "--json")
    assert (done.code, len(done.json)) == (1, 22)
    assert "does not exist" in scores("check", tmp_path / "none.py").err


def test_what_is_left_out_is_told_by_reason(file):
    told = scores("run", file).err.splitlines()
    lacking = next(line for line in told if line.startswith("Left out, for want of the arrays they need: "))
    comparing = next(line for line in told if line.startswith("Left out, for they compare candidates"))
    assert "leep" in lacking
    assert "etran" not in lacking
    assert comparing.endswith(": ncti, etran, etran_mended.")


def test_installed_scores_are_listed_and_computed(tmp_path, file):
    target = re.search(r'^centre_margin = "(.*)"$', DOCUMENT, re.MULTILINE)[1]
    install(tmp_path / "site", "centre_margin", {"centre_margin": target}, centre_margin=FILE)
    listed = scores_beside(tmp_path / "site", "list")
    assert listed.code == 0
    assert re.search("^centre_margin +How much nearer", listed.out, re.MULTILINE)
    assert listed.err == ""
    done = scores_beside(tmp_path / "site", "run", file, "--score", "centre_margin", "--score", "lfc", "--json")
    assert [row["score"] for row in done.json] == ["centre_margin", "lfc"]
    assert 0 < done.json[0]["value"] < 1
    assert scores("run", file, "--score", "centre_margin").code == 1


def test_broken_packages_are_named_and_left_out(tmp_path, file):
    site = tmp_path / "site"
    install(site, "good", {"centre_margin": "good:CENTRE_MARGIN"}, good=FILE.replace("centre_margin:c", "good:c"))
    clash = FILE.replace('name="centre_margin"', 'name="lfc"')
    entries = {
        "a_clash": "clash:CENTRE_MARGIN",
        "b_missing": "not_there:SCORE",
        "c_raises": "raises:SCORE",
        "d_number": "clash:np",
        "e_again": "good:CENTRE_MARGIN",
    }
    install(site, "bad", entries, clash=clash, raises="raise RuntimeError('no licence')")
    done = scores_beside(site, "list")
    assert done.code == 0
    for told in (
        "'a_clash' of clash:CENTRE_MARGIN is left out: a built-in score is named 'lfc'",
        "'b_missing' of not_there:SCORE is left out: loading it raised ModuleNotFoundError",
        "'c_raises' of raises:SCORE is left out: loading it raised RuntimeError: no licence",
        "'d_number' of clash:np is left out: it is of type module, not a Score",
        "'e_again' of good:CENTRE_MARGIN is left out: another package has a score named 'centre_margin'",
    ):
        assert told in done.err
    assert len(re.findall("^centre_margin ", done.out, re.MULTILINE)) == 1
    run = scores_beside(site, "run", file, "--score", "lfc", "--score", "centre_margin", "--json")
    assert [row["error"] for row in run.json] == [None, None]
    assert "RuntimeWarning: The score 'c_raises'" in run.err


def test_an_installed_score_is_computed_by_name(tmp_path):
    install(tmp_path, "good", {"margin": "good:CENTRE_MARGIN"}, good=FILE.replace("centre_margin:c", "good:c"))
    program = (
        "import numpy as np\n"
        "from app.scoring import compute, find\n"
        "print(find('centre_margin').implementation, compute('centre_margin', np.eye(4), [0, 0, 1, 1]).value)"
    )
    variables = environment() | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])}
    done = subprocess.run([sys.executable, "-c", program], env=variables, capture_output=True, text=True, check=True)
    assert re.fullmatch(r"good:centre_margin -?\d\.\d+\n", done.stdout)
