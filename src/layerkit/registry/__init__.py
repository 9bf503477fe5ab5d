"""A client for registries by the OCI distribution specification, made for large blobs on bad networks.

with Client(credentials=Credentials(Path.home() / ".docker", os.environ)) as client:
    repository = client.repository(Reference.parse("registry.example.com/team/model"))
    repository.upload(content)
    repository.put_manifest(manifest, "v2")
"""

from .answers import MissingBlobsError
from .client import Client
from .connection import Limits
from .content import Content, Journal, Standing, UploadDropped
from .credentials import Credentials, Login
from .probe import Probe
from .repository import Repository
from .ways import Way, Ways

__all__ = [
    "Client",
    "Content",
    "Credentials",
    "Journal",
    "Limits",
    "Login",
    "MissingBlobsError",
    "Probe",
    "Repository",
    "Standing",
    "UploadDropped",
    "Way",
    "Ways",
]
