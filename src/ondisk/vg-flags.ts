/**
 * The words of `status`, and of the suffixes of segment types (lvm2: lib/format_text/flags.c, formats/lvm2.md §2.6).
 *
 * A word in `status` that a program doesn't know makes the object unusable for it, by design: new incompatible features go
 * there. Words in `flags` are compatible: unknown ones are kept and ignored, so there is no list of them here. A type with an
 * unknown suffix is an unknown type.
 */

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
