/**
 * The words of `status`, and of the suffixes of segment types (lvm2: lib/format_text/flags.c, formats/lvm2.md §2.6).
 *
 * A word in `status` that a program doesn't know makes the object unusable for it, by design: new incompatible features go
 * there. Words in `flags` are compatible: unknown ones are kept and ignored, so there is no list of them here. A type with an
 * unknown suffix is an unknown type.
 *
 * WRITE_LOCKED is how WRITE is written in a VG that has an owner (a system ID, or a lock type): to a program that knows neither,
 * the VG and its LVs are read-only. It is no state of its own, so a VG in memory never has it.
 */

/** In the order in which LVM2 writes them. */
const STATUS_WORDS = {
  // PARTIAL is no longer written; old backups have it.
  vg: ['EXPORTED', 'RESIZEABLE', 'PVMOVE', 'READ', 'WRITE', 'CLUSTERED', 'SHARED', 'PARTIAL'],
  pv: ['ALLOCATABLE', 'EXPORTED', 'MISSING'],
  lv: ['READ', 'WRITE', 'FIXED_MINOR', 'VISIBLE', 'PVMOVE', 'LOCKED', 'NOTSYNCED', 'REBUILD', 'WRITEMOSTLY'],
} as const;

const SEGMENT_TYPE_FLAGS: readonly string[] = [
  'RESHAPE',
  'RESHAPE_DATA_OFFSET',
  'RESHAPE_DELTA_DISKS_PLUS',
  'RESHAPE_DELTA_DISKS_MINUS',
  'REMOVE_AFTER_RESHAPE',
  'METADATA_FORMAT',
  'CROP_METADATA',
  'CACHE_USES_CACHEVOL',
];

// Older versions wrote the segment types' flags, and for a short time CACHE_VOL, into the LV's status.
const KNOWN_STATUS = {
  vg: new Set<string>(STATUS_WORDS.vg),
  pv: new Set<string>(STATUS_WORDS.pv),
  lv: new Set<string>([...STATUS_WORDS.lv, ...SEGMENT_TYPE_FLAGS, 'CACHE_VOL']),
} as const;

export type FlaggedObject = keyof typeof STATUS_WORDS;

/** Whether LVM2 knows `word` in the `status` of such an object. */
export function isStatusWord(object: FlaggedObject, word: string): boolean {
  return KNOWN_STATUS[object].has(word);
}

/** Splits "thin-pool+CROP_METADATA"; a suffix that isn't known stays part of the name. */
export function splitSegmentType(type: string): { readonly name: string; readonly flags: readonly string[] } {
  const [name = '', ...flags] = type.split('+');
  return flags.every((flag) => SEGMENT_TYPE_FLAGS.includes(flag)) ? { name, flags } : { name: type, flags: [] };
}

const WRITE_LOCKED = 'WRITE_LOCKED';

export interface Flagged {
  readonly status: readonly string[];
  readonly flags: readonly string[];
}

/** As a VG or LV is in memory: WRITE_LOCKED is WRITE. */
export function unlocked(object: FlaggedObject, read: Flagged): Flagged {
  if (object === 'pv' || !read.flags.includes(WRITE_LOCKED)) return read;
  const flags = read.flags.filter((word) => word !== WRITE_LOCKED);
  if (read.status.includes('WRITE')) return { status: read.status, flags };
  const order: readonly string[] = STATUS_WORDS[object];
  const before = new Set(order.slice(0, order.indexOf('WRITE')));
  const at = read.status.findLastIndex((word) => before.has(word)) + 1;
  return { status: read.status.toSpliced(at, 0, 'WRITE'), flags };
}

/** As a VG or LV is written: WRITE is WRITE_LOCKED where the VG has an owner. */
export function writeLocked({ status, flags }: Flagged): Flagged {
  if (!status.includes('WRITE')) return { status, flags };
  return { status: status.filter((word) => word !== 'WRITE'), flags: [WRITE_LOCKED, ...flags] };
}

/** Whether others than old programs go by the VG's system ID or lock type. */
export function hasOwner({
  systemId = '',
  lockType = '',
}: {
  readonly systemId?: string;
  readonly lockType?: string;
}): boolean {
  return systemId !== '' || (lockType !== '' && lockType !== 'none');
}
