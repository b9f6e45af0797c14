"""Chains: restore points over backup files.

What makes each pair of operations on one chain safe. *Writers* are backup, retention's forget, eviction, synthetic and
active full, compact, change of passphrase, the naming of damage that a health check found, and the target side of a
backup copy: they are done by the process that holds the chain's lock. *Readers* are restore, verify, the source side of
a copy, listing and import's look at the files.

| | another writer | delete | health check | restore, verify, copy from it | listing, import |
| --- | --- | --- | --- | --- | --- |
| **backup** | L | L | N, A | N | N |
| **forget** | L | L | N, A | P | N, A |
| **eviction, compact** | L | L | A, R | P, R | A |
| **synthetic, active full** | L | L | N, A | N | N |
| **delete** | L | L | A | P | A |
| **health check** | see its row | A | - | - | - |
| **restore, verify, copy from it** | see their row | P | - | - | - |

- **L**, lock: `chain.lock`, held by one process for all it does and given back by the kernel when it dies. The second
  one is told `ChainLocked` at once and comes again later; one that was stopped and goes on looks at the slots before
  each series of commits and finds that it was replaced (`WriterReplaced`). Inside the process one commit lock does it.
- **N**, nothing needed: what is appended is not seen before its commit, and nothing in a body is ever overwritten.
- **A**, again: what a file said a moment ago may be gone: an extent in a hole, a file removed or renamed, a table of an
  earlier list. Whoever finds nothing, another digest or a bad checksum reads the slots once more before it says so.
- **P**, pin: a locked file beside the backup files that holds the point (`pins`). Forgetting and deleting pass over
  what is pinned, and the mark walks it also when it was forgotten in the moment in which it was pinned: the writer
  looks for pins after it has forgotten, the reader for its point after it has pinned. A pin keeps no backup waiting,
  however long it is held.
- **R**, relocation: maps name digests, not places. What a transplant moves is durable in its new place before the old
  one goes, so a reader that looks again finds it (`ChainReader` does).
- Two readers never meet: they write nothing but pins of their own.
- Order inside one session: forget, then pins are read, then mark, then give back; no source is sending meanwhile.
"""
