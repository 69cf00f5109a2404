"""Tables of what one host cannot mean: sites, tenants, vSAN, routers, NAS, GPUs.

They are there, and there is nothing in them: whatever is asked of them that is a question at all is answered so.
"""

from __future__ import annotations

from polyvisor.dialects.vergeos.language.columns import Kind
from polyvisor.dialects.vergeos.language.tables import Table
from polyvisor.dialects.vergeos.resource import Resource, nothing
from polyvisor.dialects.vergeos.tables.declare import constant, key

_NAMES = """
    alarm_history alarms auth_source_states auth_sources billing catalog_logs catalog_repositories
    catalog_repository_logs catalog_repository_status catalogs certificates cloud_snapshot_tenants
    cloud_snapshot_vms cloud_snapshots cluster_tier_stats cluster_tier_stats_history_long
    cluster_tier_stats_history_short cluster_tier_status cluster_tiers licenses
    machine_drive_phys machine_nic_fabric_status node_drivers node_gpu_instances node_gpu_stats node_gpus
    node_host_gpu_devices node_lldp_neighbors node_memory node_nvidia_vgpu_devices node_nvidia_vgpu_profiles
    node_pci_devices node_queries node_sriov_nic_devices node_usb_devices nvidia_vgpu_profiles
    oidc_application_groups oidc_application_logs oidc_application_users oidc_applications recipe_questions
    recipe_sections resource_groups resource_rules root_certificates service_container_queries shared_objects
    site_sync_stats site_sync_stats_history_long site_syncs_incoming site_syncs_incoming_logs
    site_syncs_incoming_verified site_syncs_outgoing site_syncs_outgoing_logs
    site_syncs_outgoing_profile_periods site_syncs_outgoing_queue site_syncs_outgoing_remote_snaps sites
    system_diagnostics tenant_dashboard tenant_layer2_vnets tenant_logs tenant_node_queries tenant_nodes
    tenant_recipe_instances tenant_recipe_logs tenant_recipes tenant_snapshots tenant_stats tenant_storage
    tenants update_branches update_logs update_packages update_settings update_source_packages
    update_source_status update_sources vm_recipe_instances vm_recipe_logs vm_recipes vm_service_antivirus
    vm_service_cifs vm_service_nfs vm_service_users vm_services vnet_addresses vnet_bgp_interfaces vnet_bgp_ip
    vnet_bgp_routemaps vnet_bgp_routers vnet_cidrs vnet_dashboard vnet_dns_views vnet_dns_zone_records
    vnet_dns_zones vnet_eigrp_routers vnet_hosts vnet_ipsec_connections vnet_ipsec_phase1s vnet_ipsec_phase2s
    vnet_ipsecs vnet_monitor_stats_history_short vnet_ospf_commands vnet_proxy vnet_proxy_tenants vnet_queries
    vnet_rules vnet_wireguard_peer_status vnet_wireguard_peers vnet_wireguards volume_antivirus
    volume_antivirus_infections volume_antivirus_logs volume_antivirus_stats volume_antivirus_status
    volume_browser volume_cifs_shares volume_nfs_shares volume_snapshots volume_syncs volume_vm_export_stats
    volume_vm_exports volumes vsan_queries webhook_urls webhooks
"""


def _table(name: str) -> Table:
    return Table(
        name, (key(), constant("name", Kind.STRING, ""), constant("description", Kind.TEXT, "")), short=("$key", "name")
    )


RESOURCES = tuple(Resource(_table(name), nothing, empty=True) for name in _NAMES.split())
