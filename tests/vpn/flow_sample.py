"""A flow as a running tunnel shows it."""

from vpn.control.messages import FlowStatus

FLOW = FlowStatus(
    id="t1",
    protocol="tcp",
    source="198.18.0.2",
    source_port=40000,
    destination="2001:db8::1",
    destination_port=443,
    state="half-closed-local",
    bytes_up=11,
    bytes_down=22,
    age_s=33,
    idle_s=4,
    exit="server",
)
