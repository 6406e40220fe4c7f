-- Answers for people with sqlite3 or datasette, without esrm. Our own code never reads these views.
--
--   log            every record: who said what, when
--   holders        who holds what now
--   range_history  who held what, from when to when
--   refusals       what was not given, and why
--   changes        (what holders and range_history are made of) one row for each resource gained or lost
--
-- first and last are inclusive. They are numbers; above 2^63-1, where SQLite has no integers, they are text such as
-- '0xffffffffffffe000'. SQLite sorts text behind all numbers, so comparing and sorting stay right, and so does
--     SELECT * FROM holders WHERE space = 'mmio' AND 0xfe003000 BETWEEN first AND last;
-- For a MAC address both are the address. place is the same to look at: addresses in hexadecimal, the rest decimal.

CREATE VIEW log (position, vm, revision, time, actor, correlation, type, device, data) AS
SELECT
    position, streams.name, revision,
    strftime('%Y-%m-%dT%H:%M:%S', time_ns / 1000000000, 'unixepoch') || printf('.%09dZ', time_ns % 1000000000),
    actor, correlation,
    CASE WHEN json_valid(data) THEN json_extract(data, '$.type') END,
    CASE WHEN json_valid(data) THEN json_extract(data, '$.device') END,
    data
FROM records JOIN streams ON streams.id = records.stream;

CREATE VIEW refusals (position, vm, revision, time, actor, correlation, device, code, message, refusal) AS
SELECT
    position, vm, revision, time, actor, correlation, device,
    json_extract(data, '$.refusal.code'), json_extract(data, '$.refusal.message'), json_extract(data, '$.refusal')
FROM log WHERE type = 'AllocationRefused';

CREATE VIEW changes (position, vm, revision, time, device, gained, space, first, last, place) AS
WITH
resource (position, vm, revision, time, device, gained, data) AS (
    SELECT position, vm, revision, time, device, log.type = 'ResourcesAllocated', value
    FROM log, json_each(data, '$.resources')
    WHERE log.type IN ('ResourcesAllocated', 'ResourcesReleased')
    UNION ALL
    SELECT position, vm, revision, time, json_extract(value, '$.device'), 0, json_extract(value, '$.old')
    FROM log, json_each(data, '$.moves') WHERE log.type = 'ResourcesMoved'
    UNION ALL
    SELECT position, vm, revision, time, json_extract(value, '$.device'), 1, json_extract(value, '$.new')
    FROM log, json_each(data, '$.moves') WHERE log.type = 'ResourcesMoved'
),
-- SQLite reads a JSON number above 2^63-1 as a float and loses its end, but -> gives its digits. So cut those before
-- the last ten (10^10 = 2 * 2^32 + 1410065408), and go on with the upper and the lower 32 bits. (Without
-- MATERIALIZED, SQLite would put the steps into one another and read the JSON a hundred times a row.)
digits (position, vm, revision, time, device, gained, space, address, base, size) AS MATERIALIZED (
    SELECT
        position, vm, revision, time, device, gained, json_extract(data, '$.kind'), json_extract(data, '$.address'),
        coalesce(data -> '$.base', data -> '$.irq', data -> '$.index'), coalesce(data -> '$.size', '1')
    FROM resource
),
cut AS (
    SELECT
        *,
        CAST(substr(base, 1, length(base) - 10) AS INTEGER) AS base_front, CAST(substr(base, -10) AS INTEGER) AS base_end,
        CAST(substr(size, 1, length(size) - 10) AS INTEGER) AS size_front, CAST(substr(size, -10) AS INTEGER) AS size_end
    FROM digits
),
halves AS (
    SELECT
        *,
        2 * base_front + ((base_front * 1410065408 + base_end) >> 32) AS base_high,
        (base_front * 1410065408 + base_end) & 4294967295 AS base_low,
        2 * size_front + ((size_front * 1410065408 + size_end) >> 32) AS size_high,
        (size_front * 1410065408 + size_end) & 4294967295 AS size_low
    FROM cut
),
bounds AS MATERIALIZED (
    SELECT
        *,
        base_high + size_high + ((base_low + size_low - 1) >> 32) AS last_high,
        (base_low + size_low - 1) & 4294967295 AS last_low
    FROM halves
),
numbers AS MATERIALIZED (
    SELECT
        *,
        CASE WHEN base_high >= 2147483648 THEN printf('0x%08x%08x', base_high, base_low)
             ELSE (base_high << 32) | base_low END AS first,
        CASE WHEN last_high >= 2147483648 THEN printf('0x%08x%08x', last_high, last_low)
             ELSE (last_high << 32) | last_low END AS last
    FROM bounds
)
SELECT
    position, vm, revision, time, device, gained, space, coalesce(address, first), coalesce(address, last),
    CASE
        WHEN address IS NOT NULL THEN address
        WHEN space IN ('mmio', 'mem') THEN printf('0x%08x%08x-0x%08x%08x', base_high, base_low, last_high, last_low)
        WHEN space = 'pio' THEN printf('0x%04x-0x%04x', base_low, last_low)
        WHEN first = last THEN CAST(first AS TEXT)
        ELSE first || '-' || last
    END
FROM numbers;

-- The same device may gain and lose the same resource again and again: its nth gain ends with its nth loss.
CREATE VIEW range_history (
    vm, space, first, last, place, device, from_revision, from_time, to_revision, to_time
) AS
WITH numbered AS (
    SELECT *, row_number() OVER (PARTITION BY vm, device, space, first, last, gained ORDER BY revision) AS nth
    FROM changes
)
SELECT
    vm, space, first, last, place, device,
    max(revision) FILTER (WHERE gained), max(time) FILTER (WHERE gained),
    max(revision) FILTER (WHERE NOT gained), max(time) FILTER (WHERE NOT gained)
FROM numbered GROUP BY vm, device, space, first, last, nth HAVING max(gained);

CREATE VIEW holders (vm, device, space, first, last, place, since_revision, since_time) AS
SELECT vm, device, space, first, last, place, from_revision, from_time
FROM range_history WHERE to_revision IS NULL;
