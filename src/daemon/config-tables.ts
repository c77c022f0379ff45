/**
 * The tables of lvm.toml about who may do what and what is told to whom: [access], [tls], [audit], [metrics] and [events]. Form only,
 * as config-schema.ts, which puts them in their place; names of users are looked up by access-settings.ts.
 *
 * Invariant: every key has its words in TABLES_ALLOWED.
 */
import { z } from 'zod';
import { TLS_MODES, type TlsMode } from './tls/mode.ts';
import { volumeName } from './volume-names.ts';

const principal = z.string().regex(/^(user|group):[^:\s]+$/);
const client = z.string().regex(/^(unix|tcp|tls|any|(user|group|net):\S+|(dn|psk):.+)$/);
const MAX_SECONDS = 86_400;

export interface AccessConfig {
  observers: string[];
  operators: string[];
  administrators: string[];
  /** Absent: every export is open to whoever reaches the sockets. */
  exports?: { volumes: string[]; allow: string[]; allow_read_only: string[] }[] | undefined;
}

export interface TablesConfig {
  access: AccessConfig;
  tls: {
    /** A directory. Absent: there are no certificates. */
    certificates?: string | undefined;
    /** Absent: there are no pre-shared keys. */
    psk_file?: string | undefined;
    verify_clients: boolean;
    /** Of listeners that say nothing. Absent: required over TCP if there are certificates or keys, off elsewhere. */
    mode?: TlsMode | undefined;
  };
  audit: {
    /** Absent: no audit log is kept. */
    file?: string | undefined;
    /** Bytes. */
    max_size: number;
  };
  metrics: {
    /** Absent: on the control socket only. */
    listen?: string | undefined;
  };
  events: {
    /** Seconds. */
    interval: number;
    /** Percent of a VG's extents; 0: never. */
    volume_group_full: number;
    /** Percent of a snapshot's COW store; 0: never. */
    snapshot_full: number;
    /** Seconds until a snapshot's COW store is full at the present rate; 0: never. */
    snapshot_full_within: number;
    /** Errors between two looks; 0: never. */
    device_errors: number;
    /** Program and arguments. Absent: none is run. */
    command?: string[] | undefined;
    /** Absent: none is called. */
    webhook?: string | undefined;
    /** Seconds, of one attempt. */
    timeout: number;
    /** Attempts after the first. */
    retries: number;
  };
}

/** Whether alerts can be sent there: what stands for a user and a password must be text, too. */
function isWebhook(text: string): boolean {
  const url = URL.parse(text);
  if (url === null) return false;
  try {
    decodeURIComponent(`${url.username}:${url.password}`);
    return true;
  } catch {
    return false;
  }
}

export const tablesShape: { readonly [Key in keyof TablesConfig]: z.ZodType<TablesConfig[Key]> } = {
  access: z
    .strictObject({
      observers: z.array(principal).default([]),
      operators: z.array(principal).default([]),
      administrators: z.array(principal).default([]),
      exports: z
        .array(
          z.strictObject({
            volumes: z.array(volumeName).min(1),
            allow: z.array(client).default([]),
            allow_read_only: z.array(client).default([]),
          }),
        )
        .optional(),
    })
    .prefault({}),
  tls: z
    .strictObject({
      certificates: z.string().min(1).optional(),
      psk_file: z.string().min(1).optional(),
      verify_clients: z.boolean().default(false),
      mode: z.enum(TLS_MODES).optional(),
    })
    .prefault({}),
  audit: z
    .strictObject({
      file: z.string().startsWith('/').optional(),
      max_size: z
        .int()
        .min(2 ** 16)
        .max(2 ** 30)
        .default(2 ** 24),
    })
    .prefault({}),
  metrics: z
    .strictObject({
      listen: z
        .string()
        .regex(/^tcp:./)
        .optional(),
    })
    .prefault({}),
  events: z
    .strictObject({
      interval: z.int().min(1).max(MAX_SECONDS).default(10),
      volume_group_full: z.int().min(0).max(100).default(90),
      snapshot_full: z.int().min(0).max(100).default(80),
      snapshot_full_within: z.int().min(0).max(MAX_SECONDS).default(600),
      device_errors: z
        .int()
        .min(0)
        .max(2 ** 32 - 1)
        .default(1),
      command: z.array(z.string().min(1)).min(1).optional(),
      webhook: z
        .string()
        .regex(/^https?:\/\/[^\s/]/)
        .refine(isWebhook)
        .optional(),
      timeout: z.int().min(1).max(3600).default(10),
      retries: z.int().min(0).max(100).default(3),
    })
    .prefault({}),
};

/** As config-schema.ts's ALLOWED. */
export const TABLES_ALLOWED: Readonly<Record<string, string>> = {
  access: 'a table: [access]',
  'access.observers': 'a list of "user:NAME" and "group:NAME", names or numbers',
  'access.operators': 'a list of "user:NAME" and "group:NAME", names or numbers',
  'access.administrators': 'a list of "user:NAME" and "group:NAME", names or numbers',
  'access.exports': 'tables [[access.exports]] with volumes, allow and allow_read_only',
  'access.exports.volumes': 'a list of "VG", "VG/LV" or "*"',
  'access.exports.allow':
    'a list of "user:NAME", "group:NAME", "net:10.0.0.0/8", "dn:NAME", "psk:NAME", "unix", "tcp", "tls" or "any"',
  'access.exports.allow_read_only':
    'a list of "user:NAME", "group:NAME", "net:10.0.0.0/8", "dn:NAME", "psk:NAME", "unix", "tcp", "tls" or "any"',
  tls: 'a table: [tls]',
  'tls.certificates': 'the path of a directory',
  'tls.psk_file': 'the path of a file',
  'tls.verify_clients': 'true or false',
  'tls.mode': '"off", "allowed" or "required"',
  audit: 'a table: [audit]',
  'audit.file': 'an absolute path',
  'audit.max_size': 'a whole number of bytes from 65536 to 1073741824',
  metrics: 'a table: [metrics]',
  'metrics.listen': '"tcp:host:port"',
  events: 'a table: [events]',
  'events.interval': 'a whole number of seconds from 1 to 86400',
  'events.volume_group_full': 'a whole number of percent from 1 to 100; 0: never',
  'events.snapshot_full': 'a whole number of percent from 1 to 100; 0: never',
  'events.snapshot_full_within': 'a whole number of seconds up to 86400; 0: never',
  'events.device_errors': 'a whole number below 2^32; 0: never',
  'events.command': 'a list of a program and its arguments',
  'events.webhook': 'an http:// or https:// URL',
  'events.timeout': 'a whole number of seconds from 1 to 3600',
  'events.retries': 'a whole number from 0 to 100',
};
