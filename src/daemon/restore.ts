/**
 * A worker's volumes at the worker that comes after it.
 *
 * Invariants
 *  - Each has the table that it had, or fails with a reason; an origin does not go on where a snapshot that it names has failed.
 *  - What begins to leave or to be changed meanwhile is not made live here; what leaves has nothing of it left at the new worker.
 */
import type { VolumeId } from '../lvm/live.ts';
import { lossOf } from './lost-snapshots.ts';
import type { ServedVolume } from './served-volume.ts';
import type { WorkerHost } from './worker/host.ts';

/** Gives the reasons of the volumes that can't be had there. */
export async function restoreVolumes(
  host: WorkerHost,
  volumes: readonly ServedVolume[],
): Promise<ReadonlyMap<VolumeId, string>> {
  const loaded = await host.load(volumes.map(({ load }) => load.spec));
  const failed = new Map(loaded.flatMap(({ id, problem }) => (problem === undefined ? [] : [[id, problem] as const])));
  for (const { id, load } of volumes) {
    const loss = failed.has(id) ? null : lossOf(load.spec, failed);
    if (loss !== null) failed.set(id, `its snapshot can't: ${loss}`);
  }
  // What began to leave or to change meanwhile is seen to by whoever does that.
  const good = new Map(
    volumes
      .filter((served) => !failed.has(served.id) && served.shown && !served.held)
      .map((served) => [served.id, served]),
  );
  for (const answer of await host.resume([...good.keys()])) {
    if (answer.problem === undefined) good.get(answer.id)?.went(host, answer);
    else failed.set(answer.id, answer.problem);
  }
  return failed;
}

/** Ends what left meanwhile there: it found no worker to end at. */
export async function retireLeft(host: WorkerHost, volumes: readonly ServedVolume[]): Promise<void> {
  for (const { id, shown } of volumes) if (!shown) await host.retire(id);
}
