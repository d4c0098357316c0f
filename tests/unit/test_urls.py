"""URLs without their secrets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.events import mask_url
from holdfast.events.urls import amqp_urls

SECRET = "s3cr3t"


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("amqp://guest:s3cr3t@localhost/", "amqp://guest:***@localhost/"),
        ("amqps://ada:s3cr3t@mq.example.org:5671/vhost?heartbeat=8", "amqps://ada:***@mq.example.org:5671/vhost?heartbeat=8"),
        ("mongodb://ada:s3cr3t@db1:27017,db2:27018,db3/x?replicaSet=rs0", "mongodb://ada:***@db1:27017,db2:27018,db3/x?replicaSet=rs0"),
        ("mongodb+srv://ada:s3cr3t@cluster.example.org/x", "mongodb+srv://ada:***@cluster.example.org/x"),
        ("mongodb://ada@db/x", "mongodb://ada@db/x"),
        ("mongodb://db1,db2/x?replicaSet=rs0", "mongodb://db1,db2/x?replicaSet=rs0"),
        ("amqp://localhost", "amqp://localhost"),
        ("amqp://:s3cr3t@localhost", "amqp://:***@localhost"),
        ("amqp://[::1]:5672/", "amqp://[::1]:5672/"),
        ("amqp://a:s3cr3t@[::1]:5672/", "amqp://a:***@[::1]:5672/"),
        ("mongodb://db/?tlsCertificateKeyFilePassword=s3cr3t&tls=true", "mongodb://db/?tlsCertificateKeyFilePassword=***&tls=true"),
        ("mongodb://db/?tls=true&authMechanismProperties=AWS_SESSION_TOKEN:s3cr3t", "mongodb://db/?tls=true&authMechanismProperties=***"),
        ("amqps://mq/?password=s3cr3t#fragment", "amqps://mq/?password=***#fragment"),
        ("amqps://mq/?auth_token=s3cr3t;x=1", "amqps://mq/?auth_token=***;x=1"),
        ("amqp://a:s3cr3t@mq1/v,amqps://a:s3cr3t@mq2:5671/v", "amqp://a:***@mq1/v, amqps://a:***@mq2:5671/v"),
        ("amqp://a:s3c,r3t@mq1/ amqp://a:s3cr3t@mq2/", "amqp://a:***@mq1/, amqp://a:***@mq2/"),
        ("amqp://mq1,amqp://mq2", "amqp://mq1, amqp://mq2"),
        ("localhost:5672", "localhost:5672"),
        ("", ""),
    ],
)  # fmt: skip
def test_masked(url: str, masked: str) -> None:
    """The password and the options that hold secrets go; what helps to find the server stays."""
    assert mask_url(url) == masked


@pytest.mark.parametrize(
    "url",
    [
        "mongodb://ada:s3cr3t@@db/x",
        "mongodb://ada:s3cr3t/@db/x",
        "mongodb://ada:/s3cr3t@db/x",
        "mongodb://ada:?s3cr3t@db/x",
        "mongodb://ada:#s3cr3t@db/x",
        "mongodb://ada:x@s3cr3t@db/x",
        "mongodb://ada:x://s3cr3t@db/x",
        "mongodb://ada:s3cr3t:x@db/x",
        "mongodb://ada:s3cr3t@db?x=a@b",
        "amqp://ada:x,amqp://s3cr3t@mq/",
        "amqp://ada:s3cr3t,amqp://x@mq/",
        "ada:s3cr3t@db",
        "mongodb:ada:s3cr3t@db",
    ],
)
def test_what_is_no_proper_url(url: str) -> None:
    """A password that was not escaped is not shown either."""
    assert SECRET not in mask_url(url)


@given(
    scheme=st.sampled_from(["amqp://", "amqps://", "mongodb://", "mongodb+srv://", ""]),
    user=st.text(st.characters(exclude_characters=":")),
    before=st.text(),
    after=st.text(),
    place=st.sampled_from(["host", "host:1,host:2/x?y=z", "", "[::1]/"]),
)
def test_no_password_is_shown(scheme: str, user: str, before: str, after: str, place: str) -> None:
    """Whatever stands around it, what stands between the first colon and the last @ is not shown."""
    assert SECRET not in mask_url(f"{scheme}{user}:{before}{SECRET}{after}@{place}")


@pytest.mark.parametrize(
    ("text", "urls"),
    [
        ("amqp://a:b@mq/v", ["amqp://a:b@mq/v"]),
        ("amqp://a:b@mq1/v,amqp://a:b@mq2:5673/v", ["amqp://a:b@mq1/v", "amqp://a:b@mq2:5673/v"]),
        (" amqp://a:b@mq1/\n , amqps://a:c@mq2\tamqp://a:b@mq3/%2F,\n", ["amqp://a:b@mq1/", "amqps://a:c@mq2", "amqp://a:b@mq3/%2F"]),
        ("amqp://a:b,c@mq1/,amqp://a:b,c@mq2/", ["amqp://a:b,c@mq1/", "amqp://a:b,c@mq2/"]),
        ("AMQP://mq", ["amqp://mq"]),
    ],
)  # fmt: skip
def test_a_list_of_addresses(text: str, urls: list[str]) -> None:
    """Commas or white space separate them; what stands within one is its own."""
    assert [str(url) for url in amqp_urls(text)] == urls


@pytest.mark.parametrize(
    "text",
    [
        "",
        ",",
        "localhost",
        "http://mq/",
        "amqp://",
        "amqp://a:s3cr3t@mq1:5672,mq2:5672/",
        "amqp://a:s3cr3t@mq1/ mq2",
        "amqp://a:s3cr3t@mq1/,http://a:s3cr3t@mq2/ x",
        "amqp://a:s3cr3t@mq1:s3cr3t/",
        "amqp://a:s3cr3t@mq1/,amqp://b:s3cr3t@mq2/",
        "amqp://a:s3cr3t@mq1/,amqp://mq2/",
        "amqp://a:s3cr3t@mq1/v,amqp://a:s3cr3t@mq2/w",
        "amqp://a:p@s3cr3t@mq1/",
        "amqp://a:p@s3cr3t/@mq1/",
        "amqp://a:x@mq1/,amqp://a:p@s3cr3t/:x@mq1/",
    ],
)
def test_no_list_of_addresses(text: str) -> None:
    """What cannot be used is refused, and so are addresses that are not one service's; nothing secret is said."""
    with pytest.raises(ValueError, match="AMQP URL") as refused:
        amqp_urls(text)
    assert SECRET not in str(refused.value)
    assert refused.value.__cause__ is None


@given(st.text())
def test_any_text(url: str) -> None:
    """Whatever it is given, it gives a text."""
    assert isinstance(mask_url(url), str)
