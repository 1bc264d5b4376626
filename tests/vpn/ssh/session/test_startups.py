from vpn.ssh.session.startups import Startups


def test_room_for_all_evicts_nobody() -> None:
    doorstep: Startups[str] = Startups(2)
    assert doorstep.enter("first") is None
    assert doorstep.enter("second") is None


def test_no_room_evicts_the_oldest() -> None:
    doorstep: Startups[str] = Startups(2)
    for name in ("first", "second"):
        doorstep.enter(name)
    assert doorstep.enter("third") == "first"
    assert doorstep.waiting() == ["second", "third"]


def test_who_logged_in_makes_room_and_is_never_evicted() -> None:
    doorstep: Startups[str] = Startups(1)
    doorstep.enter("first")
    doorstep.leave("first")
    doorstep.leave("first")
    assert doorstep.enter("second") is None
