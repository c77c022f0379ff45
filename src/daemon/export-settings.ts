/**
 * How exports differ from each other by configuration: the tables `[[exports]]` of lvm.toml, and the default export. Form and meaning;
 * who may open what is [access]'s (export-access.ts).
 *
 * Invariants
 *  - The first table that names a volume holds for it alone; keys that it doesn't have are as for a volume that no table names.
 *  - Block sizes are such as the protocol allows: powers of two (the largest excepted), minimum ≤ preferred ≤ maximum.
 */
import { z } from 'zod';
import { MAX_PAYLOAD_BYTES } from '../nbd/constants.ts';
import { namesVolume, volumeName } from './volume-names.ts';

/** Who besides the one that writes gets what, where there is one writer at a time. */
const OTHERS = ['read-only', 'refused'] as const;

/** One `[[exports]]` as it stands in the file; absent keys: as for other exports. */
export interface ExportConfig {
  volumes: string[];
  read_only: boolean;
  /** Bytes. */
  minimum_block_size: number;
  /** Absent: the volume's natural block. */
  preferred_block_size?: number | undefined;
  maximum_block_size: number;
  /** 0: as many as there may be. */
  max_connections: number;
  exclusive_writer: boolean;
  other_clients: (typeof OTHERS)[number];
}

export interface ExportsConfig {
  /** Absent: the only export that a client may open, if it is the only one. */
  default_export?: string | undefined;
  /** Absent: all are alike. */
  exports?: ExportConfig[] | undefined;
}

const MAX_MINIMUM_BYTES = 65_536;
const MIN_PREFERRED_BYTES = 512;
/** What clients may take for granted who never ask. */
const MIN_MAXIMUM_BYTES = 2 ** 20;

const powerOfTwo = (least: number, most: number): z.ZodType<number> =>
  z
    .int()
    .min(least)
    .max(most)
    .refine((value) => Number.isInteger(Math.log2(value)));

export const exportsShape: { readonly [Key in keyof ExportsConfig]-?: z.ZodType<ExportsConfig[Key]> } = {
  default_export: z
    .string()
    .regex(/^[^/\s]+\/[^/\s]+$/)
    .optional(),
  exports: z
    .array(
      z.strictObject({
        volumes: z.array(volumeName).min(1),
        read_only: z.boolean().default(false),
        minimum_block_size: powerOfTwo(1, MAX_MINIMUM_BYTES).default(1),
        preferred_block_size: powerOfTwo(MIN_PREFERRED_BYTES, MAX_PAYLOAD_BYTES).optional(),
        maximum_block_size: z.int().min(MIN_MAXIMUM_BYTES).max(MAX_PAYLOAD_BYTES).default(MAX_PAYLOAD_BYTES),
        max_connections: z.int().min(0).max(65_536).default(0),
        exclusive_writer: z.boolean().default(false),
        other_clients: z.enum(OTHERS).default('read-only'),
      }),
    )
    .optional(),
};

/** As config-schema.ts's ALLOWED. */
export const EXPORTS_ALLOWED: Readonly<Record<string, string>> = {
  default_export: 'an export\'s name, "VG/LV"',
  exports: 'tables [[exports]] with volumes and what is special about them',
  'exports.volumes': 'a list of "VG", "VG/LV" or "*"',
  'exports.read_only': 'true or false',
  'exports.minimum_block_size': 'a power of two from 1 to 65536',
  'exports.preferred_block_size': 'a power of two from 512 to 67108864',
  'exports.maximum_block_size': 'a whole number of bytes from 1048576 to 67108864',
  'exports.max_connections': 'a whole number from 1 to 65536; 0: no limit of its own',
  'exports.exclusive_writer': 'true or false',
  'exports.other_clients': '"read-only" or "refused"',
};

/** What is special about an export. */
export interface ExportRules {
  readonly readOnly: boolean;
  /** Bytes. */
  readonly minimumBlockSize: number;
  /** Null: the volume's natural block. */
  readonly preferredBlockSize: number | null;
  readonly maximumBlockSize: number;
  /** Null: no limit of its own. */
  readonly maxConnections: number | null;
  /** One client identity may write at a time; the others get this. Null: everybody may write. */
  readonly besidesWriter: 'read-only' | 'refused' | null;
}

export interface ExportsSettings {
  readonly defaultExport: string | null;
  readonly tables: readonly { readonly volumes: readonly string[]; readonly rules: ExportRules }[];
}

export const NO_RULES: ExportRules = {
  readOnly: false,
  minimumBlockSize: 1,
  preferredBlockSize: null,
  maximumBlockSize: MAX_PAYLOAD_BYTES,
  maxConnections: null,
  besidesWriter: null,
};
export const NO_EXPORT_SETTINGS: ExportsSettings = { defaultExport: null, tables: [] };

/** Adds what is wrong to `problems`, each a sentence. */
export function settleExports({ default_export, exports = [] }: ExportsConfig, problems: string[]): ExportsSettings {
  const tables = exports.map((table, i) => {
    const place = `exports[${i}]`;
    const preferred = table.preferred_block_size ?? null;
    if (preferred !== null && preferred < table.minimum_block_size) {
      problems.push(`${place}.preferred_block_size: it is less than minimum_block_size`);
    }
    if (preferred !== null && preferred > table.maximum_block_size) {
      problems.push(`${place}.preferred_block_size: it is more than maximum_block_size`);
    }
    if (table.maximum_block_size % table.minimum_block_size !== 0) {
      problems.push(`${place}.maximum_block_size: it is no multiple of minimum_block_size`);
    }
    const rules: ExportRules = {
      readOnly: table.read_only,
      minimumBlockSize: table.minimum_block_size,
      preferredBlockSize: preferred,
      maximumBlockSize: table.maximum_block_size,
      maxConnections: table.max_connections === 0 ? null : table.max_connections,
      besidesWriter: table.exclusive_writer ? table.other_clients : null,
    };
    return { volumes: table.volumes, rules };
  });
  return { defaultExport: default_export ?? null, tables };
}

/** `name` is the export's: VG/LV. */
export function exportRules({ tables }: ExportsSettings, name: string): ExportRules {
  return tables.find(({ volumes }) => volumes.some((volume) => namesVolume(volume, name)))?.rules ?? NO_RULES;
}
