/**
 * pvck's --settings: values that are believed instead of what damaged headers say.
 *
 * Source: pvck(8) "Settings"; only those that a search for metadata uses.
 */
import { CommandError, EXIT } from '../messages.ts';

export interface SearchSettings {
  /** Bytes. */
  offset?: bigint;
  size?: bigint;
  areaNumber?: 1 | 2;
  /** Only the first text with this seqno. */
  seqno?: number;
  /** Only the text at this byte of the device. */
  textOffset?: bigint;
}

/** Reads "key=value key = value …"; throws CommandError (5) for others, as LVM2 does. */
export function parseSettings(text: string | undefined): Readonly<SearchSettings> {
  const settings: SearchSettings = {};
  for (const word of (text ?? '').replaceAll(/\s*=\s*/g, '=').split(/\s+/)) {
    if (word === '') continue;
    const [, key, value = ''] = /^(\w+)=(\d+)$/.exec(word) ?? [];
    if (key === 'mda_offset') settings.offset = BigInt(value);
    else if (key === 'mda_size') settings.size = BigInt(value);
    else if (key === 'mda_num' && (value === '1' || value === '2')) settings.areaNumber = value === '1' ? 1 : 2;
    else if (key === 'seqno') settings.seqno = Number(value);
    else if (key === 'metadata_offset') settings.textOffset = BigInt(value);
    else throw new CommandError(EXIT.failed, [`Invalid setting: ${word.split('=')[0] ?? word}`]);
  }
  return settings;
}
