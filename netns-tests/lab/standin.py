"""Stands for a service of the system on its message bus; a program that prints what it is asked.

`standin.py SERVICE BEHAVIOUR` has the name of the service, prints each call that it gets as a line
of JSON, and `obey`s, `refuse`s as polkit would, is `old` and knows but a few methods, or stays
`silent`.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from jeepney import HeaderFields, MessageType, new_error, new_method_return
from jeepney.bus_messages import message_bus
from jeepney.io.blocking import open_dbus_connection

_OLD = {"SetLinkDNS", "SetLinkDomains", "RevertLink", "SetLinkLLMNR"}


def main() -> None:
    """Be a service until the bus goes."""
    service, behaviour = sys.argv[1:]
    with open_dbus_connection("SYSTEM") as connection:
        connection.send_and_get_reply(message_bus.RequestName(service))
        print("ready", flush=True)
        while True:
            message = connection.receive()
            if message.header.message_type is not MessageType.method_call:
                continue
            method = message.header.fields[HeaderFields.member]
            print(json.dumps([method, message.body], default=list), flush=True)
            if behaviour == "silent":
                continue
            connection.send(_answer(message, method, behaviour))


def _answer(message: Any, method: str, behaviour: str) -> Any:
    if behaviour == "refuse":
        name = "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired"
        return new_error(message, name, "s", ("not you",))
    if behaviour == "old" and method not in _OLD:
        return new_error(message, "org.freedesktop.DBus.Error.UnknownMethod", "s", ("what?",))
    if method == "GetDeviceByIpIface":
        return new_method_return(message, "o", (f"/device/{message.body[0]}",))
    return new_method_return(message)


if __name__ == "__main__":
    main()
