/**
 * What the mirrors in the layers of a volume are doing, for those who drive a move: from the volume's status, which is plain data and
 * may come from another process.
 */
import { SECTOR_BYTES } from '../target.ts';
import type { VolumeStatus } from '../volume-status.ts';
import { isMirrorDetails, type MirrorDetails } from './mirror.ts';

/** A mirror in a layer of a volume. */
export interface MirrorState extends MirrorDetails {
  /** The line at the top that the layer is under: where messages for the mirror go (Volume.message). */
  readonly sector: number;
  /** Bytes. */
  readonly sizeBytes: number;
}

/** Every mirror in layers of that name. */
export function mirrorStates(volume: VolumeStatus, layer: string): readonly MirrorState[] {
  return volume.lines.flatMap(({ start: sector, layers }) =>
    layers
      .flatMap(withLayers)
      .filter(({ name }) => name === layer)
      .flatMap(({ lines }) => lines)
      .flatMap(({ length, details }) =>
        isMirrorDetails(details) ? [{ ...details, sector, sizeBytes: length * SECTOR_BYTES }] : [],
      ),
  );
}

function withLayers(volume: VolumeStatus): readonly VolumeStatus[] {
  return [volume, ...volume.lines.flatMap(({ layers }) => layers.flatMap(withLayers))];
}
