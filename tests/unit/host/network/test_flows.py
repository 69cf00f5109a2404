"""What the packet filter's tools say of connections."""

from __future__ import annotations

from polyvisor.host.network import rules
from polyvisor.host.network.flows import Flow, passed, tracked
from polyvisor.model.standby import Connection

ENDS = "src=10.77.0.1 dst=10.77.0.10 sport=4242 dport=80"
BACK = "src=10.77.0.10 dst=10.77.0.1 sport=80 dport=4242"
HTTP = Connection("10.77.0.1", 80)


def test_a_connection_is_told_by_its_first_direction_and_is_open_while_bytes_may_go() -> None:
    text = "\n".join(
        [
            f"tcp      6 431999 ESTABLISHED {ENDS} {BACK} [ASSURED] mark=0 use=1 id=1",
            f"tcp      6 119 TIME_WAIT {ENDS} {BACK} [ASSURED] mark=0 use=1 id=2",
            f"tcp      6 119 SYN_SENT {ENDS} [UNREPLIED] {BACK} mark=0 use=1 id=3",
            f"tcp      6 59 CLOSE_WAIT {ENDS} {BACK} [ASSURED] mark={rules.OURS} use=1 id=4",
        ]
    )
    assert tracked(text) == [
        Flow("1", "10.77.0.10", HTTP, open=True),
        Flow("2", "10.77.0.10", HTTP, open=False),
        Flow("3", "10.77.0.10", HTTP, open=False),
        Flow("4", "10.77.0.10", HTTP, open=True, ours=True),
    ]


def test_other_lines_are_passed_over() -> None:
    assert tracked(f"udp 17 29 {ENDS} {BACK} id=1\n\ntcp 6 1 ESTABLISHED id=1\ntcp 6 1 CLOSE dst=a src=b dport=x") == []


def test_those_who_sent_something_a_moment_ago() -> None:
    row = '{"elem": {"val": {"concat": ["10.77.0.11", "10.77.0.10", 80]}, "timeout": 5, "expires": 3}}'
    text = f'{{"nftables": [{{"metainfo": {{}}}}, {{"set": {{"name": "calls", "elem": [{row}]}}}}]}}'
    assert passed(text) == [Flow("10.77.0.11 80", "10.77.0.10", Connection("10.77.0.11", 80), open=True)]
    assert passed('{"nftables": [{"metainfo": {}}, {"set": {"name": "calls"}}]}') == passed("") == []
