"""What decides where a disk is read and which gateway serves a share, in words: `explain` and the documents say these.

The steps stand in the order in which they decide.
"""

import msgspec


class Step(msgspec.Struct, frozen=True):
    """One step of a decision. `code` is that of a reason why something was taken ("": it only sorts out)."""

    code: str
    words: str


PLACEMENT = (
    Step("", "can it at all: the job's list, its role, its slots, a transport mode that reaches the disk"),
    Step("best_mode", "best transport mode"),
    Step("own_host", "the machine's own host"),
    Step("same_site", "same site as the machine"),
    Step("repository_site", "same site as the repository's server"),
    Step("affinity", "preferred by the repository"),
    Step("least_loaded", "least loaded: free / all slots"),
)
GATEWAYS = (
    Step("", "can it at all: the repository's list, not away, a free slot"),
    Step("served_the_chain_last", "served the chain last: its index is at hand"),
    Step("same_site", "same site as the share"),
    Step("fastest", "fastest to connect, in steps of a doubling; not measured comes last"),
    Step("least_loaded", "least loaded: taken / all slots"),
)
# Further reasons why a proxy was taken.
ONLY = "the only one that can"
WORSE_MODE = "a worse transport mode: what has {best} is full or away"
OTHERS_TAKEN = "better ones are full or away"
# Why a server is no candidate for a disk.
EXCLUDED = {
    "not_in_the_jobs_list": "the job names other proxies",
    "no_proxy_role": "the server is no proxy",
    "no_slots": "the proxy has no slots",
    "server_unsuitable": "no mover can run there: 'server check' says what is missing",
    "no_transport_mode": "no transport mode reaches the machine's disks from there",
    "no_route": "the proxy and the repository's server only dial, so their data has no way",
    "failed_before": "the attempt before failed there",
}
# Why a gateway was taken, where no step decided.
ONLY_GATEWAY = "only_gateway"

_PLACEMENT_WORDS = {step.code: step.words for step in PLACEMENT}


def placement_words(code: str) -> str:
    return _PLACEMENT_WORDS[code]


def gateway_words(code: str) -> str:
    """Return the words of a reason for which a gateway was taken."""
    return {ONLY_GATEWAY: ONLY, **{step.code: step.words for step in GATEWAYS}}[code]


def decision_table() -> str:
    """Return both decisions as a table in Markdown, as docs/operator.md has it."""
    lines = ["| decided by | proxy for a disk | gateway for a chain on a share |", "| --- | --- | --- |"]
    for place in range(max(len(PLACEMENT), len(GATEWAYS))):
        proxy, gateway = (steps[place].words if place < len(steps) else "" for steps in (PLACEMENT, GATEWAYS))
        lines.append(f"| {place + 1} | {proxy} | {gateway} |".replace("|  |", "| |"))
    return "\n".join(lines) + "\n"
