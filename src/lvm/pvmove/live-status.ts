/**
 * How far the step of a move is that live volumes copy, from the status of the volumes.
 *
 * Invariant: `inSync` is said only of mirrors that are sealed. So it stays true until a table is loaded anew, whatever fails: from
 * then on a change that one leg did not take is not acknowledged, and the destination may become the truth.
 */
import { type MirrorState, mirrorStates } from '../../dm/mirror/control.ts';
import type { VolumeStatus } from '../../dm/volume-status.ts';
import type { MoveStatus } from '../live.ts';

/** The name of the layers that a move's tables have. */
export function moveLayerName(vgName: string, pvmoveLv: string): string {
  return `${vgName}/${pvmoveLv}`;
}

/**
 * The state of a move: `volumes` are all live volumes of its VG, and `seal` sends the message `seal` to the line of volume
 * `volumes[index]` at `sector`. Null: none of them copies anything of it.
 */
export async function moveStatusOf(
  volumes: readonly VolumeStatus[],
  layer: string,
  seal: (index: number, sector: number) => Promise<void>,
): Promise<MoveStatus | null> {
  const found = volumes.map((volume) => mirrorStates(volume, layer));
  const mirrors = found.flat();
  if (mirrors.length === 0) return null;
  const totalBytes = sum(mirrors.map(({ sizeBytes }) => sizeBytes));
  const doneBytes = sum(mirrors.map(({ bytesInSync }) => bytesInSync));
  const problem = mirrors.map(problemOf).find((reason) => reason !== null);
  if (problem !== undefined) return { inSync: false, doneBytes, totalBytes, problem };
  if (doneBytes < totalBytes) return { inSync: false, doneBytes, totalBytes };
  const open = found.flatMap((states, index) =>
    states.filter(({ sealed }) => !sealed).map(({ sector }) => ({ index, sector })),
  );
  // One that can't be sealed has failed just now: the next status tells what.
  const sealed = await Promise.allSettled(open.map(({ index, sector }) => seal(index, sector)));
  return { inSync: sealed.every(({ status }) => status === 'fulfilled'), doneBytes, totalBytes };
}

/** How much of a move both sides have. Null: none of the volumes copies anything of it. */
export function copiedBytes(
  volumes: readonly VolumeStatus[],
  layer: string,
): { readonly doneBytes: number; readonly totalBytes: number } | null {
  const mirrors = volumes.flatMap((volume) => mirrorStates(volume, layer));
  if (mirrors.length === 0) return null;
  return {
    doneBytes: sum(mirrors.map(({ bytesInSync }) => bytesInSync)),
    totalBytes: sum(mirrors.map(({ sizeBytes }) => sizeBytes)),
  };
}

const FAILURES: Readonly<Record<string, string>> = {
  F: 'a flush failed',
  D: 'a write failed',
  S: 'copying failed',
  R: 'a read failed',
};

function problemOf({ broken, mirrors }: MirrorState): string | null {
  if (!broken) return null;
  const failed = mirrors.filter(({ state }) => state !== 'A');
  return failed.map(({ device, state }) => `${device}: ${FAILURES[state] ?? 'it failed'}`).join(', ');
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, number) => total + number, 0);
}
