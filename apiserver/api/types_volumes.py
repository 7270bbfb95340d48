"""Typed views of volumes.

Part of types.py, which is what everyone imports.
"""

from __future__ import annotations

import msgspec

from apiserver.api.types_base import Quantity, View
from apiserver.api.types_containers import FieldRef, ResourceFieldRef


class KeyToPath(View):
    key: str = ""
    path: str = ""
    mode: int | None = None


class EmptyDirVolume(View):
    medium: str = ""
    size_limit: Quantity = ""


class HostPathVolume(View):
    path: str = ""
    type: str = ""


class ConfigMapVolume(View):
    """A ConfigMap volume, and a projected ConfigMap."""

    name: str = ""
    items: list[KeyToPath] = []
    default_mode: int | None = None
    optional: bool = False


class SecretVolume(View):
    secret_name: str = ""
    items: list[KeyToPath] = []
    default_mode: int | None = None
    optional: bool = False


class SecretProjection(View):
    name: str = ""
    items: list[KeyToPath] = []
    optional: bool = False


class DownwardAPIFile(View):
    path: str = ""
    field_ref: FieldRef | None = None
    resource_field_ref: ResourceFieldRef | None = None
    mode: int | None = None


class DownwardAPIVolume(View):
    items: list[DownwardAPIFile] = []
    default_mode: int | None = None


class ServiceAccountTokenProjection(View):
    audience: str = ""
    expiration_seconds: int = 3600
    path: str = ""


class VolumeProjection(View):
    config_map: ConfigMapVolume | None = None
    secret: SecretProjection | None = None
    downward_api: DownwardAPIVolume | None = msgspec.field(name="downwardAPI", default=None)
    service_account_token: ServiceAccountTokenProjection | None = None


class ProjectedVolume(View):
    sources: list[VolumeProjection] = []
    default_mode: int | None = None


class PersistentVolumeClaimVolume(View):
    claim_name: str = ""
    read_only: bool = False


class ImageVolume(View):
    reference: str = ""
    pull_policy: str = ""


class Volume(View):
    """At most one source is set; none of them set means a source that this view does not know."""

    name: str = ""
    empty_dir: EmptyDirVolume | None = None
    host_path: HostPathVolume | None = None
    config_map: ConfigMapVolume | None = None
    secret: SecretVolume | None = None
    downward_api: DownwardAPIVolume | None = msgspec.field(name="downwardAPI", default=None)
    projected: ProjectedVolume | None = None
    persistent_volume_claim: PersistentVolumeClaimVolume | None = None
    image: ImageVolume | None = None
