/**
 * Metadata texts of volume groups: from bytes to a checked, typed value, and back. The way in and out of everything about texts
 * in this room; see config-parser.ts for the grammar, vg-read.ts, vg-print.ts and vg-validate.ts for the volume group.
 *
 * Invariants
 *  - A value that `parseMetadataText` returns has passed `validateVolumeGroup`.
 *  - parse(print(value)) equals value, in both forms.
 */
import type { Where } from './errors.ts';
import type { MetadataText } from './metadata.ts';
import { encodeText } from './text-bytes.ts';
import type { TextForm } from './text-writer.ts';
import { type PrintContext, printText } from './vg-print.ts';
import { readMetadataText } from './vg-read.ts';
import { validateVolumeGroup } from './vg-validate.ts';

/**
 * Parses a metadata text in either form. A NUL ends it, as on disk. Throws a FormatError, naming line or object, if it isn't
 * a text that LVM2 would read, or describes a volume group that can't be.
 */
export function parseMetadataText(text: Uint8Array | string, where: Where): MetadataText {
  const parsed = readMetadataText(text, where);
  validateVolumeGroup(parsed.vg, where);
  return parsed;
}

/**
 * Prints a metadata text: 'disk' as it stands in metadata areas (but for the NUL that ends it there), 'backup' as vgcfgbackup
 * writes it. Without a context the header has no comments.
 */
export function printMetadataText(text: MetadataText, form: TextForm, context?: PrintContext): string {
  return printText(text, form, context);
}

/** The bytes to be written to a metadata area: the on-disk form and the NUL that ends it. */
export function metadataTextBytes(text: MetadataText, context?: PrintContext): Buffer {
  return Buffer.concat([encodeText(printText(text, 'disk', context)), Buffer.of(0)]);
}
