"""Which URLs a webhook may have, and which addresses belong to the internet."""

import pytest

from app.domain.errors import BadRequest
from app.domain.public_address import is_public
from app.domain.webhook_url import LONGEST_URL, read_url


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com",
        "https://example.com:8443/hooks/1?key=a%20b",
        "https://8.8.8.8/",
        "https://[2001:4860:4860::8888]/",
        "https://xn--bcher-kva.example/",
        "https://localhost.example.com/",
    ],
)
def test_what_leads_out_is_taken_as_it_is(url: str) -> None:
    assert read_url(url) == url


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/",
        "ftp://example.com/",
        "file:///etc/passwd",
        "example.com",
        "https://",
        "https:///path",
        "https://user@example.com/",
        "https://user:password@example.com/",
        "https://example.com/#part",
        "https://example.com:0/",
        "https://example.com:99999/",
        "https://example.com:x/",
        "https://[::1/",
        "https://exa mple.com/",
        "https://example.com/\r\nX-Header: 1",
        "https://bücher.example/",
        "https://example.com/" + "x" * LONGEST_URL,
        "",
    ],
)
def test_what_is_no_url_of_a_receiver_is_refused(url: str) -> None:
    with pytest.raises(BadRequest) as refused:
        read_url(url)
    assert refused.value.code == "invalid_webhook_url"


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0177.0.0.1",
        "017700000001",
        "0",
        "10.1.2.3",
        "172.31.255.255",
        "192.168.1.1",
        "169.254.169.254",
        "100.100.100.200",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:a9fe:a9fe]",
        "[fd00:ec2::254]",
        "[fe80::1]",
    ],
)
def test_addresses_that_are_not_public_are_refused_in_every_form(host: str) -> None:
    with pytest.raises(BadRequest) as refused:
        read_url(f"https://{host}/")
    assert refused.value.code == "address_not_public"


def test_a_host_that_is_allowed_needs_no_tls_and_may_be_private() -> None:
    allowed = {"127.0.0.1", "hooks.intranet"}
    for url in ("http://127.0.0.1:8080/", "https://127.0.0.1/", "http://HOOKS.intranet/"):
        assert read_url(url, private_hosts=allowed) == url
    for url in ("http://127.0.0.2/", "http://hooks.intranet.example.com/"):
        with pytest.raises(BadRequest):
            read_url(url, private_hosts=allowed)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "::ffff:8.8.8.8", "2001:4860:4860::8888", "2606:4700::1111"])
def test_public_addresses(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *("0.0.0.0", "10.0.0.1", "100.64.0.1", "127.0.0.1", "169.254.169.254", "172.16.0.1", "192.168.0.1"),
        *("192.0.0.8", "192.0.0.192", "192.0.2.1", "192.88.99.1", "198.18.0.1", "198.51.100.1", "203.0.113.1"),
        *("224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255", "168.63.129.16"),
        *("::", "::1", "::7f00:1", "::ffff:10.0.0.1", "fc00::1", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1"),
        *("2001:db8::1", "2001::1", "2002:7f00:1::", "2002:808:808::1", "64:ff9b::7f00:1", "100::1"),
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)
