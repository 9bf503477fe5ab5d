"""A registry for tests: real HTTP, in this process, with the habits of real registries and faults by script.

    with FakeRegistry("distribution-2.8", users={"ada": "secret"}) as registry:
        registry.fail(method="PATCH", after_bytes=1_000_000, action="reset")
        push_with_the_tool_under_test(f"{registry.host}/team/model:v1")
        assert registry.tag("team/model", "v1") is not None
        assert registry.received_bytes(method="PATCH") < 3_000_000

It does what the OCI distribution specification 1.1 says of pull, push, content discovery and content management.
Blobs are kept in a temporary folder, not in memory. It needs nothing but the standard library.
"""

from .registry import PROFILES, FakeRegistry, Profile
from .script import Fault, Request

__all__ = ["PROFILES", "FakeRegistry", "Fault", "Profile", "Request"]
