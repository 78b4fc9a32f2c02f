"""The attention instance: KV cache, scheduling, MFA, router and sampling."""
