/**
 * lvm.toml: every key, its type, its default and, in words, what it may hold. lvm.toml.example and docs/operating.md
 * are tested against this file.
 *
 * Invariants
 *  - Unknown keys are refused (a misspelt key that is silently ignored is a setting that silently doesn't work).
 *  - Every key has an entry in ALLOWED; a message names the key, the value found and that entry.
 *  - Parsing decides form only; what depends on the machine (paths, sockets, being root) is config.ts's.
 */
import { z } from 'zod';
import { MIN_CACHE_BYTES } from '../block/cache/block-cache.ts';
import { TABLES_ALLOWED, type TablesConfig, tablesShape } from './config-tables.ts';
import { EXPORTS_ALLOWED, type ExportsConfig, exportsShape } from './export-settings.ts';

const volumePattern = /^(@[A-Za-z0-9_+.\-/=!:&#]+|[A-Za-z0-9_+.][A-Za-z0-9_+.-]*(\/[A-Za-z0-9_+.][A-Za-z0-9_+.-]*)?)$/;

const path = z.string().min(1);
/** Bytes: what a number holds exactly, and more than any device has. */
const size = z
  .int()
  .min(0)
  .max(2 ** 53 - 1);
const count = z
  .int()
  .min(0)
  .max(2 ** 32 - 1)
  .default(0);
export const MAX_WORKERS = 256;
/** The addon's bound. */
const MAX_BUSY_POLL = 1000;
/** A year. */
const MAX_INTERVAL = 31_536_000;
const systemId = z.string().regex(/^[A-Za-z0-9_+.][A-Za-z0-9_+.-]{0,127}$/);

export const ENGINES = ['auto', 'uring', 'threads'] as const;
export const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const;
export const LOG_FORMATS = ['auto', 'json', 'text'] as const;
export const CACHE_POLICIES = ['none', 'writethrough', 'writeback'] as const;
export const IO_SCHEDULERS = ['none', 'deadline'] as const;

/** The file's values, defaults filled in; keys are spelt as in the file. */
export interface Config extends TablesConfig, ExportsConfig {
  devices: string[];
  read_only: boolean;
  engine: (typeof ENGINES)[number];
  /** Microseconds. */
  busy_poll: number;
  direct: boolean | 'auto';
  /** Paths and glob patterns. */
  direct_devices: string[];
  buffered_devices: string[];
  /** Absent: one for each core, at most 4. */
  workers?: number | undefined;
  listen: string[];
  control: string;
  /** Absent: /run/orion-lvm, or $XDG_RUNTIME_DIR/orion-lvm without root. */
  run_dir?: string | undefined;
  /** Octal. */
  socket_mode: string;
  /** Absent: the daemon's own. */
  socket_group?: string | undefined;
  /** Absent: this host has none, and serves only volume groups that have none. */
  system_id?: string | undefined;
  /** Other system IDs whose volume groups are served. */
  extra_system_ids: string[];
  /** Bytes; 0: no limit but the format's. */
  physical_volume_size_limit: number;
  /** Bytes; 0: LVM2's default. */
  physical_volume_alignment: number;
  physical_volume_metadata_size: number;
  /** Counts; 0: no limit but the format's. */
  volume_group_max_pvs: number;
  volume_group_max_lvs: number;
  volume_group_max_pes: number;
  /** Bytes; 0: no limit but the format's. */
  logical_volume_max_size: number;
  /** A count; 0: no limit. */
  logical_volume_snapshot_limit: number;
  /** Seconds; 0: the daemon makes none. */
  metadata_backup_interval: number;
  /** Seconds; 0: devices are read again only when something is noticed. */
  rescan_interval: number;
  auto_recovery: boolean;
  /** Bytes; 0: none. */
  cache_size: number;
  cache_policy: (typeof CACHE_POLICIES)[number];
  io_scheduler: (typeof IO_SCHEDULERS)[number];
  /** Bytes; 0: none. */
  journal_size: number;
  log: { level: (typeof LOG_LEVELS)[number]; format: (typeof LOG_FORMATS)[number] };
  /** Absent list: every volume. */
  activation: { auto_activation_volume_list?: string[] | undefined };
  /** Bytes and seconds; all but `connections`, `handshakes` and `total_bytes_in_flight` are per connection. */
  limits: {
    connections: number;
    requests_in_flight: number;
    bytes_in_flight: number;
    total_bytes_in_flight: number;
    handshakes: number;
    handshake_timeout: number;
    drain_timeout: number;
  };
}

const configSchema: z.ZodType<Config> = z.strictObject({
  devices: z.array(path).default([]),
  read_only: z.boolean().default(false),
  engine: z.enum(ENGINES).default('auto'),
  busy_poll: z.int().min(0).max(MAX_BUSY_POLL).default(50),
  direct: z.union([z.boolean(), z.literal('auto')]).default('auto'),
  direct_devices: z.array(path).default([]),
  buffered_devices: z.array(path).default([]),
  workers: z.int().min(0).max(MAX_WORKERS).optional(),
  listen: z.array(z.string().regex(/^(unix|tcp|vsock):./)).default(['unix:nbd.sock']),
  control: path.default('control.sock'),
  run_dir: path.startsWith('/').optional(),
  socket_mode: z
    .string()
    .regex(/^0?[0-7]{3}$/)
    .default('0600'),
  socket_group: z
    .string()
    .regex(/^[^:\s]+$/)
    .optional(),
  system_id: systemId.optional(),
  extra_system_ids: z.array(systemId).default([]),
  physical_volume_size_limit: size.default(0),
  physical_volume_alignment: size.multipleOf(1024).default(0),
  physical_volume_metadata_size: size.multipleOf(512).default(0),
  volume_group_max_pvs: count,
  volume_group_max_lvs: count,
  volume_group_max_pes: count,
  logical_volume_max_size: size.default(0),
  logical_volume_snapshot_limit: count,
  metadata_backup_interval: z.int().min(0).max(MAX_INTERVAL).default(0),
  rescan_interval: z.int().min(0).max(MAX_INTERVAL).default(0),
  auto_recovery: z.boolean().default(false),
  cache_size: z
    .union([
      z.literal(0),
      z
        .int()
        .min(MIN_CACHE_BYTES)
        .max(2 ** 40),
    ])
    .default(0),
  cache_policy: z.enum(CACHE_POLICIES).default('none'),
  io_scheduler: z.enum(IO_SCHEDULERS).default('none'),
  journal_size: size.default(0),
  ...exportsShape,
  ...tablesShape,
  log: z
    .strictObject({
      level: z.enum(LOG_LEVELS).default('info'),
      format: z.enum(LOG_FORMATS).default('auto'),
    })
    .prefault({}),
  activation: z
    .strictObject({
      auto_activation_volume_list: z.array(z.string().regex(volumePattern)).optional(),
    })
    .prefault({}),
  limits: z
    .strictObject({
      connections: z.int().min(1).max(65536).default(1024),
      requests_in_flight: z.int().min(1).max(65536).default(256),
      bytes_in_flight: z
        .int()
        .min(2 ** 26)
        .max(2 ** 34)
        .default(2 ** 26),
      total_bytes_in_flight: z
        .int()
        .min(2 ** 26)
        .max(2 ** 40)
        .default(2 ** 29),
      handshakes: z.int().min(1).max(65536).default(256),
      handshake_timeout: z.int().min(1).max(3600).default(10),
      drain_timeout: z.int().min(1).max(3600).default(10),
    })
    .prefault({}),
});

/** What holds where there is no file. */
export function defaultConfig(): Config {
  return configSchema.parse({});
}

/** What a key may hold, in words. Tables are listed too, for a value in a table's place. */
export const ALLOWED: Readonly<Record<string, string>> = {
  devices: 'a list of paths of devices, image files or directories, or glob patterns',
  read_only: 'true or false',
  engine: '"auto", "uring" or "threads"',
  busy_poll: 'a whole number of microseconds from 0 to 1000; 0: never',
  direct: 'true, false or "auto"',
  direct_devices: 'a list of paths or glob patterns',
  buffered_devices: 'a list of paths or glob patterns',
  workers: 'a whole number from 0 to 256',
  listen: 'a list of "unix:/path.sock" or "tcp:host:port" or "vsock:port", perhaps with "?tls=required" behind it',
  control: "a socket's path",
  run_dir: 'an absolute path of a directory',
  socket_mode: 'three octal digits in quotes, such as "0600"',
  socket_group: "a group's name or number, in quotes",
  system_id: 'at most 128 letters, digits and _ + . - (not starting with -)',
  extra_system_ids: 'a list of system IDs',
  physical_volume_size_limit: 'a whole number of bytes below 2^53; 0: no limit',
  physical_volume_alignment: 'a whole number of bytes below 2^53, a multiple of 1024; 0: the default',
  physical_volume_metadata_size: 'a whole number of bytes below 2^53, a multiple of 512; 0: the default',
  volume_group_max_pvs: 'a whole number below 2^32; 0: no limit',
  volume_group_max_lvs: 'a whole number below 2^32; 0: no limit',
  volume_group_max_pes: 'a whole number below 2^32; 0: no limit',
  logical_volume_max_size: 'a whole number of bytes below 2^53; 0: no limit',
  logical_volume_snapshot_limit: 'a whole number below 2^32; 0: no limit',
  metadata_backup_interval: 'a whole number of seconds, at most 31536000; 0: never',
  rescan_interval: 'a whole number of seconds, at most 31536000; 0: never',
  auto_recovery: 'true or false',
  cache_size: 'a whole number of bytes from 1048576 to 1099511627776; 0: no cache',
  cache_policy: '"none", "writethrough" or "writeback"',
  io_scheduler: '"none" or "deadline"',
  journal_size: 'a whole number of bytes below 2^53; 0: no journal',
  ...EXPORTS_ALLOWED,
  ...TABLES_ALLOWED,
  log: 'a table: [log]',
  'log.level': '"trace", "debug", "info", "warn", "error", "fatal" or "silent"',
  'log.format': '"auto", "json" or "text"',
  activation: 'a table: [activation]',
  'activation.auto_activation_volume_list': 'a list of "VG", "VG/LV" or "@tag"',
  limits: 'a table: [limits]',
  'limits.connections': 'a whole number from 1 to 65536',
  'limits.requests_in_flight': 'a whole number from 1 to 65536',
  'limits.bytes_in_flight': 'a whole number of bytes from 67108864 to 17179869184',
  'limits.total_bytes_in_flight': 'a whole number of bytes from 67108864 to 1099511627776',
  'limits.handshakes': 'a whole number from 1 to 65536',
  'limits.handshake_timeout': 'a whole number of seconds from 1 to 3600',
  'limits.drain_timeout': 'a whole number of seconds from 1 to 3600',
};

/** Checks a parsed file; gives its values, or every problem as a sentence. */
export function checkConfig(input: unknown): { readonly config: Config } | { readonly problems: readonly string[] } {
  const result = configSchema.safeParse(input);
  if (result.success) return { config: result.data };
  return { problems: result.error.issues.flatMap((issue) => problemsOf(issue, input)) };
}

function problemsOf(issue: z.core.$ZodIssue, input: unknown): string[] {
  if (issue.code === 'unrecognized_keys') {
    return issue.keys.map((key) => unknownKey([...issue.path, key].join('.')));
  }
  const key = issue.path.filter((part) => typeof part !== 'number').join('.');
  const [first, ...rest] = issue.path.map((part) => (typeof part === 'number' ? `[${part}]` : `.${String(part)}`));
  const place = [first?.slice(1), ...rest].join('');
  return [`${place}: ${show(valueAt(input, issue.path))} is not allowed: it must be ${ALLOWED[key] ?? issue.message}`];
}

function valueAt(input: unknown, path: readonly PropertyKey[]): unknown {
  let value = input;
  for (const part of path) {
    if (typeof value !== 'object' || value === null) return undefined;
    value = Reflect.get(value, part);
  }
  return value;
}

function show(value: unknown): string {
  const text = typeof value === 'bigint' ? String(value) : (JSON.stringify(value) ?? String(value));
  return text.length > 80 ? `${text.slice(0, 77)}...` : text;
}

function unknownKey(key: string): string {
  const near = nearest(key, Object.keys(ALLOWED));
  return `${key}: no such key${near === undefined ? '' : `; did you mean ${near}?`}`;
}

/** The known key with the fewest edits from `key`, if it is near enough to be what was meant. */
function nearest(key: string, known: readonly string[]): string | undefined {
  const moved = known.find(
    (name) => (/[._]/.test(name.at(-key.length - 1) ?? '') && name.endsWith(key)) || key.endsWith(`.${name}`),
  );
  if (moved !== undefined) return moved;
  const ranked = known.map((name) => ({ name, distance: editDistance(key, name) }));
  const best = ranked.reduce((a, b) => (b.distance < a.distance ? b : a));
  return best.distance <= Math.max(2, key.length / 3) ? best.name : undefined;
}

/** Levenshtein's distance, by rows. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 0; i < a.length; i++) {
    const next = [i + 1];
    for (let j = 0; j < b.length; j++) {
      const substitution = (row[j] ?? 0) + (a[i] === b[j] ? 0 : 1);
      next.push(Math.min(substitution, (row[j + 1] ?? 0) + 1, (next[j] ?? 0) + 1));
    }
    row = next;
  }
  return row.at(-1) ?? 0;
}
