"""The detector as a service: an HTTP interface and a page, before engines that Ray Serve runs.

client ──HTTP──► proxy ──► gateway (api.py) ──► admission ──► replicas (replica.py) ──► vLLM
                 of Serve  keys, limits, batches              one engine each, scaled by Serve
"""
