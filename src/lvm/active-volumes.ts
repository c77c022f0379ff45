/**
 * Which LVs of a VG are active and open, as a command has to know before it refuses or asks: the daemon's answer at one moment.
 * Without a daemon none is.
 *
 * Invariant: `prepare` decides in the end; what is asked here only comes early enough for a good message.
 */
import type { LogicalVolumeText, VolumeGroupText } from '../ondisk/metadata.ts';
import { CommandError } from './edit/errors.ts';
import { type LiveStatus, type LiveVolumes, type VolumeId, volumeId } from './live.ts';
import { segmentAreas } from './references.ts';
import { relationsOf } from './relations.ts';

export class ActiveVolumes {
  readonly #vg: VolumeGroupText;
  readonly #statuses: ReadonlyMap<VolumeId, LiveStatus>;

  private constructor(vg: VolumeGroupText, statuses: ReadonlyMap<VolumeId, LiveStatus>) {
    this.#vg = vg;
    this.#statuses = statuses;
  }

  static async of(live: LiveVolumes | undefined, vg: VolumeGroupText): Promise<ActiveVolumes> {
    return new ActiveVolumes(vg, live?.present === true ? await live.status(vg.id) : new Map());
  }

  /** Null: not active. */
  status(name: string): LiveStatus | null {
    const lv = relationsOf(this.#vg).lvs.get(name)?.lv;
    return lv === undefined ? null : this.#of(lv);
  }

  #of(lv: LogicalVolumeText): LiveStatus | null {
    const status = this.#statuses.get(volumeId(this.#vg, lv));
    return status?.active === true ? status : null;
  }

  isActive(name: string): boolean {
    return this.status(name) !== null;
  }

  /** Whether clients are connected. */
  isOpen(name: string): boolean {
    return (this.status(name)?.openCount ?? 0) > 0;
  }

  /** Names of active LVs, in the VG's order. */
  get names(): readonly string[] {
    if (this.#statuses.size === 0) return [];
    return this.#vg.logicalVolumes.flatMap((lv) => (this.#of(lv) === null ? [] : [lv.name]));
  }

  /** Names of active LVs with extents of the PV of this label; those of hidden LVs count for everything that is active. */
  onPv(label: string): readonly string[] {
    const { names } = this;
    if (names.length === 0) return names;
    const { lvs } = relationsOf(this.#vg);
    const there = this.#vg.logicalVolumes.filter(({ segments }) =>
      segments.some((segment) => segmentAreas(segment).some(({ name }) => name === label)),
    );
    if (there.some(({ name }) => lvs.get(name)?.visible !== true)) return names;
    return names.filter((name) => there.some((lv) => lv.name === name));
  }

  /** Throws a CommandError with this line if anything is active. */
  refuseAny(line: string): void {
    if (this.names.length > 0) throw new CommandError(line);
  }
}
