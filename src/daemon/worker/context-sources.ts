/**
 * Who answers for a volume's meta contexts in its worker: one source for each `ContextSpec`.
 *
 * Invariants
 *  - A source asks the volume as it is when the question comes; it keeps nothing that a change of the table could make wrong.
 *  - Who selected a context is told about what it was about then: another snapshot that has got the name since is not answered for.
 */
import type { StatusSource } from '../../block/extents.ts';
import type { Volume } from '../../dm/volume.ts';
import type { ContextSpec } from '../contexts.ts';
import { SegmentStatus } from './segment-status.ts';

/** A context of a volume: who answers, and what tells it from another one that has the name before or afterwards. */
export interface VolumeContext {
  readonly subject: string;
  readonly source: StatusSource;
}

/** The contexts that there are, by name. */
export function volumeContexts(specs: readonly ContextSpec[], volume: Volume): ReadonlyMap<string, VolumeContext> {
  return new Map(
    specs.map((spec) => {
      const subject = spec.kind === 'changed' ? spec.since : '';
      return [spec.name, { subject, source: contextSource(spec, volume) }];
    }),
  );
}

function contextSource(spec: ContextSpec, volume: Volume): StatusSource {
  if (spec.kind === 'segment') return new SegmentStatus(volume, spec.devices);
  return {
    blockStatus: (offset, length, extents, done) => volume.changedSince(spec.since, offset, length, extents, done),
  };
}
