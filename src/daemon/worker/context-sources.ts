/**
 * Who answers for a volume's meta contexts in its worker: one source for each `ContextSpec`.
 *
 * Invariant: a source asks the volume as it is when the question comes; it keeps nothing that a change of the table could make wrong.
 */
import type { StatusSource } from '../../block/extents.ts';
import type { Volume } from '../../dm/volume.ts';
import type { ContextSpec } from '../contexts.ts';
import { SegmentStatus } from './segment-status.ts';

export function contextSource(spec: ContextSpec, volume: Volume): StatusSource {
  if (spec.kind === 'segment') return new SegmentStatus(volume, spec.devices);
  return {
    blockStatus: (offset, length, extents, done) => volume.changedSince(spec.since, offset, length, extents, done),
  };
}
