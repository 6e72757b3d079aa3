"""The detector as a service: an HTTP interface and a page, before engines that Ray Serve runs.

client ──HTTP──► gateway (listener.py, api.py) ──► admission ──► replicas (replica.py) ──► vLLM
                 keys, limits, batches                           one engine each, scaled by Serve

On a cluster, Ray Serve's proxies stand before the gateway.
"""
