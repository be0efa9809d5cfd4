"""Measurements that people can repeat: ``python -m benchmarks`` lists the parts, ``make bench`` runs
them all and writes docs/performance.md from what came out.

Law: they speak to gradhelm as its users do (attach, the wire, REST, the command line), and what is
held against another logger was measured with the same values on the same machine, in turn.
"""
