-- Waits where the collector is just removing it; then there is none. Its lock keeps a collector that comes now from it.
update artifacts set created_at = clock_timestamp()
where tenant_id = %(tenant)s and sha256 = %(sha256)s and location = %(location)s
returning sha256;
