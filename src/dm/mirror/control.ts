/**
 * Asking and telling the mirrors in the layers of volumes, for those who drive a move: plain data in and out, so that it may
 * come from another process.
 */
import { SECTOR_BYTES } from '../target.ts';
import type { Volume, VolumeStatus } from '../volume.ts';
import { isMirrorDetails, mirror, type MirrorDetails } from './mirror.ts';

/** A mirror in a layer of a volume. */
export interface MirrorState extends MirrorDetails {
  /** The volume at the top. */
  readonly volume: string;
  /** Bytes. */
  readonly sizeBytes: number;
}

/** What the mirrors in layers of that name are doing. */
export function mirrorStates(volume: Volume, layer: string): readonly MirrorState[] {
  return layersOf(volume.status())
    .filter(({ name }) => name === layer)
    .flatMap(({ lines }) => lines)
    .flatMap(({ length, details }) =>
      isMirrorDetails(details) ? [{ ...details, volume: volume.name, sizeBytes: length * SECTOR_BYTES }] : [],
    );
}

/** Says `seal`, `unseal` or `restart` to them, all at once. Throws VolumeError NOT_IN_SYNC if one can't be sealed. */
export async function messageMirrors(
  volume: Volume,
  layer: string,
  word: 'seal' | 'unseal' | 'restart',
): Promise<void> {
  for (const below of volume.layers()) {
    if (below.name !== layer) continue;
    const mirrors = below.status().lines.filter(({ target }) => target === mirror.name);
    await Promise.all(mirrors.map(({ start }) => below.message(start, [word])));
  }
}

function layersOf({ lines }: VolumeStatus): readonly VolumeStatus[] {
  return lines.flatMap(({ layers }) => layers.flatMap((layer) => [layer, ...layersOf(layer)]));
}
