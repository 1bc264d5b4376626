"""The resolver as its clients see it: octets in, a decision out."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dns.codes import ExtendedError, RCode
from dns.names import to_wire
from dns.pool import Pool
from dns.records import Record
from dns.resolver import Decision, Forward, Lookup, Mode, Outcome, Reply, Resolver
from dns.upstream import Answer, write_answer

Ask = Callable[..., bytes]
Read = Callable[[bytes], Any]
MakePool = Callable[..., Pool]

A, NS, SOA, PTR, MX, TXT, AAAA, SRV, SVCB, HTTPS, AXFR, ANY = (
    1, 2, 6, 12, 15, 16, 28, 33, 64, 65, 252, 255,
)  # fmt: skip
CHAOS = 3


class Dialogue:
    """A client and the resolver; `asks` expects a reply and reads it."""

    def __init__(self, pool: Pool, mode: Mode, suffixes: tuple[str, ...], read: Read) -> None:
        self.pool = pool
        self.resolver = Resolver(pool, mode, suffixes)
        self.read = read

    def decides(self, wire: bytes, over_tcp: bool = False) -> Decision:
        return self.resolver.on_query(wire, over_tcp=over_tcp, now=0.0)

    def asks(self, wire: bytes) -> Any:
        decision = self.decides(wire)
        assert isinstance(decision, Reply)
        return self.read(decision.wire)

    def hears(self, wire: bytes, outcome: Outcome, message: bytes = b"") -> Any:
        lookup = self.decides(wire)
        assert isinstance(lookup, Lookup)
        return self.read(self.resolver.on_outcome(lookup, outcome, message, 0.0).wire)

    def hears_answer(self, wire: bytes, answer: Answer) -> Any:
        lookup = self.decides(wire)
        assert isinstance(lookup, Lookup)
        message = write_answer(answer, lookup.name, lookup.rtype)
        return self.read(self.resolver.on_outcome(lookup, answer.outcome, message, 0.0).wire)


@pytest.fixture(scope="module")
def virtual(make_pool: MakePool, read: Read) -> Dialogue:
    return Dialogue(make_pool(1024), Mode.VIRTUAL, (), read)


@pytest.fixture(scope="module")
def remote(make_pool: MakePool, read: Read) -> Dialogue:
    return Dialogue(make_pool(1024), Mode.REMOTE, (), read)


@pytest.fixture(scope="module")
def split(make_pool: MakePool, read: Read) -> Dialogue:
    return Dialogue(make_pool(1024), Mode.VIRTUAL, ("corp.example", "office.local"), read)


@pytest.fixture(params=["virtual", "remote"])
def either(request: pytest.FixtureRequest) -> Dialogue:
    dialogue: Dialogue = request.getfixturevalue(request.param)
    return dialogue


# Addresses in mode VIRTUAL


def test_virtual_asked_for_addresses_gives_a_pair(virtual: Dialogue, ask: Ask) -> None:
    (v4,) = virtual.asks(ask("app.example", A)).addresses
    (v6,) = virtual.asks(ask("app.example", AAAA)).addresses
    assert virtual.pool.assign("app.example", 0.0) == (v4, v6)


def test_virtual_answer_lives_one_second(virtual: Dialogue, ask: Ask) -> None:
    (record,) = virtual.asks(ask("app.example", A)).answers
    assert record.ttl == 1


def test_virtual_asked_in_random_case_gives_one_address_in_that_case(
    virtual: Dialogue, ask: Ask
) -> None:
    lower, mixed = virtual.asks(ask("app.example")), virtual.asks(ask("aPp.eXaMpLe"))
    assert lower.addresses == mixed.addresses
    assert mixed.question == ask("aPp.eXaMpLe")[12:]
    assert mixed.answers[0].owner == (b"aPp", b"eXaMpLe")


@pytest.mark.parametrize("name", ["db", "xn--bcher-kva.example", "_x.example", "a.test"])
def test_virtual_asked_for_ordinary_name_gives_address(
    virtual: Dialogue, ask: Ask, name: str
) -> None:
    (address,) = virtual.asks(ask(name)).addresses
    assert virtual.pool.name_of(address) == name


def test_virtual_asked_for_longest_name_gives_address(virtual: Dialogue, ask: Ask) -> None:
    labels = (b"a" * 63, b"b" * 63, b"c" * 63, b"d" * 61)
    (address,) = virtual.asks(ask(labels)).addresses
    assert virtual.pool.name_of(address) == b".".join(labels).decode()


def test_exhausted_pool_is_servfail(make_pool: MakePool, read: Read, ask: Ask) -> None:
    dialogue = Dialogue(make_pool(1), Mode.VIRTUAL, (), read)
    dialogue.asks(ask("first.example"))
    got = dialogue.asks(ask("second.example", payload=1232))
    assert (got.rcode, got.answers) == (RCode.SERVFAIL, [])
    assert got.extended_error == ExtendedError.OTHER


# Addresses in mode REMOTE


@pytest.mark.parametrize("qtype", [A, AAAA])
def test_remote_asked_for_address_asks_the_far_end(remote: Dialogue, ask: Ask, qtype: int) -> None:
    lookup = remote.decides(ask("wWw.Example", qtype), over_tcp=True)
    assert isinstance(lookup, Lookup)
    assert (lookup.name, lookup.rtype, lookup.over_tcp) == ("www.example", qtype, True)


def test_remote_hears_found_gives_virtual_address(remote: Dialogue, ask: Ask) -> None:
    got = remote.hears(ask("found.exAmple", AAAA), Outcome.FOUND)
    pair = remote.pool.assign("found.example", 0.0)
    assert pair is not None
    assert got.addresses == [pair[1]]
    assert got.question == ask("found.exAmple", AAAA)[12:]


def test_remote_hears_no_data_keeps_a_v4_only_name_v4_only(remote: Dialogue, ask: Ask) -> None:
    assert len(remote.hears(ask("four.example", A), Outcome.FOUND).answers) == 1
    got = remote.hears(ask("four.example", AAAA), Outcome.NO_DATA)
    assert (got.rcode, got.answers, len(got.authority)) == (RCode.NOERROR, [], 1)


@pytest.mark.parametrize(
    ("outcome", "rcode", "why"),
    [
        (Outcome.NX_DOMAIN, RCode.NXDOMAIN, None),
        (Outcome.REFUSED, RCode.REFUSED, ExtendedError.BLOCKED),
        (Outcome.UNSUPPORTED, RCode.NOTIMP, ExtendedError.NOT_SUPPORTED),
        (Outcome.FAILED, RCode.SERVFAIL, ExtendedError.NO_REACHABLE_AUTHORITY),
        (Outcome.UNREACHABLE, RCode.SERVFAIL, ExtendedError.NETWORK_ERROR),
    ],
)
def test_remote_hears_failure_passes_it_on(
    remote: Dialogue, ask: Ask, outcome: Outcome, rcode: RCode, why: ExtendedError | None
) -> None:
    got = remote.hears(ask("gone.example", payload=1232), outcome)
    assert (got.rcode, got.answers, got.extended_error) == (rcode, [], why)


def test_remote_hears_nothing_found_assigns_nothing(
    make_pool: MakePool, read: Read, ask: Ask
) -> None:
    pool = make_pool(1)
    dialogue = Dialogue(pool, Mode.REMOTE, (), read)
    for outcome in set(Outcome) - {Outcome.FOUND}:
        dialogue.hears(ask(f"{outcome.name}.example"), outcome)
    assert pool.assign("free.example", 0.0) is not None


def test_remote_hears_found_with_full_pool_is_servfail(
    make_pool: MakePool, read: Read, ask: Ask
) -> None:
    dialogue = Dialogue(make_pool(1), Mode.REMOTE, (), read)
    dialogue.hears(ask("first.example"), Outcome.FOUND)
    assert dialogue.hears(ask("second.example"), Outcome.FOUND).rcode == RCode.SERVFAIL


# Names that are no hosts, and names that mean something else


@pytest.mark.parametrize(
    "name", [(), (b"my printer", b"example"), (b"a\0b",), (b"*", b"example"), (b"a.b", b"c")]
)
def test_name_that_is_no_host_has_no_address(
    either: Dialogue, ask: Ask, name: tuple[bytes, ...]
) -> None:
    got = either.asks(ask(name))
    assert (got.rcode, got.answers, got.question) == (RCode.NOERROR, [], ask(name)[12:])


@pytest.mark.parametrize("name", ["169.254.169.254", "127.1", "2130706433", "0x7f.1", "0x7f000001"])
def test_name_that_reads_as_an_address_has_none(either: Dialogue, ask: Ask, name: str) -> None:
    assert either.asks(ask(name)).answers == []


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST", "a.localhost"])
def test_localhost_is_the_asker(either: Dialogue, ask: Ask, name: str) -> None:
    assert either.asks(ask(name, A)).addresses == [IPv4Address("127.0.0.1")]
    assert either.asks(ask(name, AAAA)).addresses == [IPv6Address("::1")]
    got = either.asks(ask(name, MX))
    assert (got.rcode, got.answers) == (RCode.NOERROR, [])


@pytest.mark.parametrize("qtype", [A, AAAA, HTTPS, TXT, ANY])
@pytest.mark.parametrize(
    "name",
    [
        "printer.local",
        "x.onion",
        "x.OnIoN",
        "x.invalid",
        "x.alt",
        "use-application-dns.net",
        "udp.overlay-vpn.internal",
    ],
)
def test_name_of_another_system_does_not_exist(
    either: Dialogue, ask: Ask, name: str, qtype: int
) -> None:
    got = either.asks(ask(name, qtype))
    assert (got.rcode, got.answers) == (RCode.NXDOMAIN, [])


@pytest.mark.parametrize("qtype", [SVCB, A, TXT])
def test_discovery_of_encrypted_resolver_finds_none(either: Dialogue, ask: Ask, qtype: int) -> None:
    got = either.asks(ask("_dns.resolver.arpa", qtype))
    assert (got.rcode, got.answers) == (RCode.NOERROR, [])


def test_probe_for_nat64_finds_none(either: Dialogue, ask: Ask) -> None:
    assert either.asks(ask("ipv4only.arpa", AAAA)).answers == []
    addresses = either.asks(ask("ipv4only.arpa", A)).addresses
    assert addresses == [ip_address("192.0.0.170"), ip_address("192.0.0.171")]


# Other types


@pytest.mark.parametrize("qtype", [HTTPS, SVCB])
def test_service_binding_not_told(either: Dialogue, ask: Ask, qtype: int) -> None:
    got = either.asks(ask("www.example", qtype))
    assert (got.rcode, got.answers, len(got.authority)) == (RCode.NOERROR, [], 1)


def test_any_answered_minimally(either: Dialogue, ask: Ask) -> None:
    (record,) = either.asks(ask("www.example", ANY)).answers
    assert record.data == b"\x07RFC8482\0"


@pytest.mark.parametrize("qtype", [11, 38, 105, 106])
def test_other_types_that_are_addresses_not_told(either: Dialogue, ask: Ask, qtype: int) -> None:
    assert either.asks(ask("www.example", qtype)).answers == []


@pytest.mark.parametrize("qtype", [0, 41, AXFR, 251, 65535])
def test_type_that_is_no_data_not_implemented(either: Dialogue, ask: Ask, qtype: int) -> None:
    got = either.asks(ask("www.example", qtype, payload=1232))
    assert (got.rcode, got.extended_error) == (RCode.NOTIMP, ExtendedError.NOT_SUPPORTED)


@pytest.mark.parametrize("qtype", [NS, SOA, MX, TXT, SRV, 257, 65280])
def test_virtual_asked_for_other_type_not_implemented(
    virtual: Dialogue, ask: Ask, qtype: int
) -> None:
    got = virtual.asks(ask("www.example", qtype, payload=1232))
    assert (got.rcode, got.extended_error) == (RCode.NOTIMP, ExtendedError.NOT_SUPPORTED)


@pytest.mark.parametrize("qtype", [2, 5, SOA, MX, TXT, SRV, 35, 43, 44, 52, 257, 65280])
def test_remote_asked_for_other_type_asks_the_far_end(
    remote: Dialogue, ask: Ask, qtype: int
) -> None:
    lookup = remote.decides(ask("My Printer.Example", qtype), over_tcp=True)
    assert isinstance(lookup, Lookup)
    assert (lookup.name, lookup.rtype) == ("my\\032printer.example", qtype)


WWW = b"\x03www\x07example\0"
EXAMPLE = b"\x07example\0"
SOA_RECORD = Record(EXAMPLE, SOA, 1, 20, b"\0\0" + bytes(19) + b"\x14")


def test_remote_hears_records_gives_them_to_the_asker(remote: Dialogue, ask: Ask) -> None:
    alias = Record(WWW, 5, 1, 60, b"\x01a" + EXAMPLE)
    mx = Record(b"\x01a" + EXAMPLE, MX, 1, 60, b"\0\x0a\x02mx" + EXAMPLE)
    got = remote.hears_answer(
        ask("wWw.eXample", MX, payload=1232, do=True), Answer(Outcome.FOUND, 60, (alias, mx))
    )
    assert (got.rcode, got.flags & 0x0420, got.payload) == (0, 0, 1232)
    assert [(one.owner, one.rtype, one.ttl) for one in got.answers] == [
        ((b"wWw", b"eXample"), 5, 60),
        ((b"a", b"example"), MX, 60),
    ]
    assert got.answers[1].data == mx.data
    assert got.authority == []


@pytest.mark.parametrize(
    ("outcome", "rcode"), [(Outcome.NO_DATA, RCode.NOERROR), (Outcome.NX_DOMAIN, RCode.NXDOMAIN)]
)
def test_remote_hears_nothing_there_says_for_how_long(
    remote: Dialogue, ask: Ask, outcome: Outcome, rcode: RCode
) -> None:
    query = ask("www.example", MX)
    got = remote.hears_answer(query, Answer(outcome, 20, (), SOA_RECORD))
    assert (got.rcode, got.answers) == (rcode, [])
    assert [(one.owner, one.ttl) for one in got.authority] == [((b"example",), 20)]
    got = remote.hears_answer(query, Answer(outcome))
    assert [(one.owner, one.ttl) for one in got.authority] == [((), 1)]


@pytest.mark.parametrize(
    "message", [b"", b"\0" * 12, write_answer(Answer(Outcome.NO_DATA), "another.example", MX)]
)
def test_remote_hears_another_answer_is_servfail(
    remote: Dialogue, ask: Ask, message: bytes
) -> None:
    for outcome in (Outcome.FOUND, Outcome.NO_DATA, Outcome.NX_DOMAIN):
        if message and outcome is Outcome.NO_DATA:
            continue
        assert remote.hears(ask("www.example", MX), outcome, message).rcode == RCode.SERVFAIL


@pytest.mark.parametrize("payload", [None, 0, 512, 1232, 65535])
def test_records_that_do_not_fit_are_left_to_tcp(
    remote: Dialogue, ask: Ask, read: Read, payload: int | None
) -> None:
    text = Record(WWW, TXT, 1, 60, (b"\xff" + b"x" * 255) * 5)
    found = Answer(Outcome.FOUND, 60, (text,))
    got = remote.hears_answer(ask("www.example", TXT, payload=payload), found)
    assert (got.is_truncated, got.answers) == (True, [])
    lookup = remote.decides(ask("www.example", TXT, payload=payload), over_tcp=True)
    assert isinstance(lookup, Lookup)
    message = write_answer(found, lookup.name, TXT)
    whole = read(remote.resolver.on_outcome(lookup, Outcome.FOUND, message, 0.0).wire)
    assert (whole.is_truncated, len(whole.answers)) == (False, 1)


def test_records_of_many_owners_behind_16_kib_are_right(
    remote: Dialogue, ask: Ask, read: Read
) -> None:
    """Where no pointer reaches (RFC 1035 §4.1.4)."""
    names = [b"\x01" + bytes((97 + n,)) + b"\x3f" + b"x" * 63 + EXAMPLE for n in range(16)]
    chain = [Record(one, 5, 1, 60, two) for one, two in zip([WWW, *names], names, strict=False)]
    texts = [Record(names[-1], TXT, 1, 60, b"\xff" + bytes((n,)) * 255) for n in range(150)]
    found = Answer(Outcome.FOUND, 60, (*chain, *texts))
    lookup = remote.decides(ask("www.example", TXT), over_tcp=True)
    assert isinstance(lookup, Lookup)
    message = write_answer(found, lookup.name, TXT)
    got = read(remote.resolver.on_outcome(lookup, Outcome.FOUND, message, 0.0).wire)
    owner = (b"p", b"x" * 63, b"example")
    assert [one.owner for one in got.answers[len(chain) :]] == [owner] * len(texts)
    assert [one.data for one in got.answers[len(chain) :]] == [one.data for one in texts]


@given(
    st.lists(st.tuples(st.integers(1, 70), st.binary(max_size=40)), max_size=6),
    st.lists(st.binary(min_size=1, max_size=63), max_size=3).map(tuple),
    st.sampled_from([2, 5, SOA, MX, TXT, SRV]),
    st.sampled_from([Outcome.FOUND, Outcome.NO_DATA, Outcome.NX_DOMAIN]),
)
def test_whatever_the_client_says_no_address_is_told(
    remote: Dialogue,
    ask: Ask,
    read: Read,
    parts: list[tuple[int, bytes]],
    labels: tuple[bytes, ...],
    qtype: int,
    outcome: Outcome,
) -> None:
    labels = (*labels[:2], b"example")
    lookup = remote.decides(ask(labels, qtype), over_tcp=True)
    assert isinstance(lookup, Lookup)
    records = tuple(Record(to_wire(labels), rtype, 1, 9, data) for rtype, data in parts)
    message = write_answer(Answer(outcome, 9, records), lookup.name, qtype)
    got = read(remote.resolver.on_outcome(lookup, outcome, message, 0.0).wire)
    assert got.addresses == []
    assert {one.rtype for one in got.answers} <= {qtype, 5}


@pytest.mark.parametrize("qclass", [0, CHAOS, 255])
def test_other_class_not_implemented(either: Dialogue, ask: Ask, qclass: int) -> None:
    got = either.asks(ask("version.bind", TXT, qclass=qclass))
    assert (got.rcode, got.question[-2:]) == (RCode.NOTIMP, struct.pack("!H", qclass))


# Reverse names


def test_address_of_the_pool_asked_back_gives_the_name(virtual: Dialogue, ask: Ask) -> None:
    pair = virtual.pool.assign("back.example", 0.0)
    assert pair is not None
    for address in pair:
        (record,) = virtual.asks(ask(address.reverse_pointer.upper(), PTR)).answers
        assert record.name == (b"back", b"example")


@pytest.mark.parametrize("text", ["198.18.0.1", "198.19.255.255", "fd00:1:2:3::1"])
def test_address_of_the_pool_without_name_asked_back_does_not_exist(
    either: Dialogue, split: Dialogue, ask: Ask, text: str
) -> None:
    for dialogue in (either, split):
        got = dialogue.asks(ask(ip_address(text).reverse_pointer, PTR))
        assert got.rcode == RCode.NXDOMAIN


@pytest.mark.parametrize("text", ["192.0.2.1", "2001:db8::1"])
def test_real_address_asked_back_is_asked_at_the_far_end(
    virtual: Dialogue, remote: Dialogue, ask: Ask, text: str
) -> None:
    query = ask(ip_address(text).reverse_pointer, PTR)
    assert virtual.asks(query).rcode == RCode.NOTIMP
    assert isinstance(remote.decides(query), Lookup)


def test_reverse_name_of_pool_in_class_chaos_not_told(virtual: Dialogue, ask: Ask) -> None:
    v4, _ = virtual.pool.assign("back.example", 0.0) or pytest.fail("pool exhausted")
    assert virtual.asks(ask(v4.reverse_pointer, PTR, qclass=CHAOS)).rcode == RCode.NOTIMP


# Split: some names are ours


@pytest.mark.parametrize("name", ["corp.example", "a.CORP.example", "a.b.corp.example"])
def test_split_asked_for_name_below_suffix_answers(split: Dialogue, ask: Ask, name: str) -> None:
    (address,) = split.asks(ask(name)).addresses
    assert split.pool.name_of(address) == name.lower()


@pytest.mark.parametrize(
    "wire",
    [
        ("www.example", A, 1),
        ("notcorp.example", A, 1),
        ("corp.example.org", HTTPS, 1),
        ((), NS, 1),
        ((b"my printer", b"example"), TXT, 1),
        ("localhost", A, 1),
        ("printer.local", A, 1),
        ("x.onion", A, 1),
        ("1.2.0.192.in-addr.arpa", PTR, 1),
        ("version.bind", TXT, CHAOS),
    ],
)
def test_split_asked_for_other_name_forwards_it_untouched(
    split: Dialogue, ask: Ask, wire: tuple[Any, int, int]
) -> None:
    name, qtype, qclass = wire
    query = ask(name, qtype, qclass=qclass, payload=4096, do=True) + b"behind"
    assert split.decides(query) == Forward(query)


def test_split_asked_below_a_suffix_under_local_answers(split: Dialogue, ask: Ask) -> None:
    (address,) = split.asks(ask("nas.office.local")).addresses
    assert split.pool.name_of(address) == "nas.office.local"


@pytest.mark.parametrize(
    ("name", "rcode"),
    [("use-application-dns.net", RCode.NXDOMAIN), ("_dns.resolver.arpa", RCode.NOERROR)],
)
def test_split_asked_by_applications_that_would_leave_keeps_them(
    split: Dialogue, ask: Ask, name: str, rcode: RCode
) -> None:
    got = split.asks(ask(name, A))
    assert (got.rcode, got.answers) == (rcode, [])


def test_split_asked_back_for_pool_address_answers(split: Dialogue, ask: Ask) -> None:
    v4, _ = split.pool.assign("back.corp.example", 0.0) or pytest.fail("pool exhausted")
    (record,) = split.asks(ask(v4.reverse_pointer, PTR)).answers
    assert record.name == (b"back", b"corp", b"example")


@pytest.mark.parametrize("name", ["localhost", "x.onion", "x.overlay-vpn.internal"])
def test_special_name_claimed_by_a_suffix_stays_special(
    make_pool: MakePool, read: Read, ask: Ask, name: str
) -> None:
    dialogue = Dialogue(make_pool(8), Mode.VIRTUAL, (name,), read)
    assert not any(dialogue.pool.contains(a) for a in dialogue.asks(ask(name)).addresses)


@pytest.mark.parametrize("suffix", ["", ".", "a b", "-" * 64])
def test_suffix_that_is_no_domain_refused(make_pool: MakePool, suffix: str) -> None:
    with pytest.raises(ValueError):
        Resolver(make_pool(8), Mode.VIRTUAL, (suffix,))


# Hostile octets


@pytest.mark.parametrize("wire", [b"", b"\0" * 11, b"\0\1\x80\0" + b"\0" * 8])
def test_what_is_no_query_met_with_silence(either: Dialogue, wire: bytes) -> None:
    assert either.decides(wire) is None


def test_malformed_query_answered(either: Dialogue, ask: Ask, read: Read) -> None:
    assert either.asks(ask()[:-1]).rcode == RCode.FORMERR
    assert either.asks(ask(flags=4 << 11)).rcode == RCode.NOTIMP
    got = either.asks(ask(payload=1232, version=1))
    assert (got.rcode, got.payload) == (RCode.BADVERS, 1232)


@given(st.binary(max_size=300), st.booleans())
@example(b"\0" * 65535, True)
def test_any_octets_decided_about(
    virtual: Dialogue, remote: Dialogue, split: Dialogue, read: Read, wire: bytes, over_tcp: bool
) -> None:
    for dialogue in (virtual, remote, split):
        decision = dialogue.decides(wire, over_tcp)
        if isinstance(decision, Reply):
            assert read(decision.wire).id == int.from_bytes(wire[:2], "big")


@given(
    st.lists(st.binary(min_size=1, max_size=63), max_size=3).map(tuple),
    st.integers(0, 300),
    st.sampled_from([None, 0, 1232, 65535]),
    st.sampled_from(Outcome),
)
def test_any_question_answered_about_itself(
    virtual: Dialogue,
    remote: Dialogue,
    ask: Ask,
    read: Read,
    labels: tuple[bytes, ...],
    qtype: int,
    payload: int | None,
    outcome: Outcome,
) -> None:
    wire = ask(labels, qtype, payload=payload)
    for dialogue in (virtual, remote):
        decision = dialogue.decides(wire)
        if isinstance(decision, Lookup):
            decision = dialogue.resolver.on_outcome(decision, outcome, b"", 0.0)
        assert isinstance(decision, Reply)
        got = read(decision.wire)
        assert got.question == ask(labels, qtype)[12:]
        assert len(decision.wire) <= 512
        assert (got.payload is None) is (payload is None)


@given(st.sampled_from([A, AAAA, HTTPS, SVCB, ANY, MX, TXT]), st.sampled_from(Outcome))
def test_no_answer_has_an_address_outside_the_pool(
    virtual: Dialogue, remote: Dialogue, ask: Ask, read: Read, qtype: int, outcome: Outcome
) -> None:
    for dialogue in (virtual, remote):
        decision = dialogue.decides(ask("leak.example", qtype))
        if isinstance(decision, Lookup):
            decision = dialogue.resolver.on_outcome(decision, outcome, b"", 0.0)
        assert isinstance(decision, Reply)
        assert all(dialogue.pool.contains(a) for a in read(decision.wire).addresses)


@pytest.mark.parametrize(
    "octets",
    [
        pytest.param(b"\0" * 65523, id="zeros"),
        pytest.param(
            b"\x01a" * 126 + b"\0\0\1\0\1" + b"\xc0\x0c" * 32600, id="records of pointers"
        ),
        pytest.param(b"\x01a" * 32761, id="endless name"),
    ],
)
def test_64_kib_over_tcp_decided_within_5_ms(virtual: Dialogue, octets: bytes) -> None:
    wire = struct.pack("!6H", 7, 0x0100, 1, 0, 0, 16) + octets

    def elapsed_s() -> float:
        start = time.process_time()
        virtual.decides(wire, over_tcp=True)
        return time.process_time() - start

    assert min(elapsed_s() for _ in range(10)) < 0.005
