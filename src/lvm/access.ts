/**
 * Who may touch a volume group: VGs of another host (system ID), shared and clustered VGs, exported VGs.
 *
 * Invariants
 *  - The messages are LVM2's own, so that scripts which match them keep working.
 *  - Without lvmlockd, a VG whose lock type needs it may at most be looked at; a clustered VG (clvmd) not even that.
 *
 * Source: LVM2 lib/metadata/metadata.c (access checks of vg_read), lvmsystemid(7); messages observed with 2.03.16.
 */
import type { VolumeGroupText } from '../ondisk/metadata.ts';

/** What the host brings to the question. */
export interface HostContext {
  /** The host's own system ID; null when it has none. */
  readonly systemId: string | null;
  /** Other system IDs whose VGs this host may use (`local/extra_system_ids`). */
  readonly extraSystemIds: readonly string[];
  /** `--foreign`: look at VGs of other hosts. */
  readonly allowForeign: boolean;
  /** VGs (by uuid) in which this host has active LVs: they may be looked at, and deactivated, whoever they belong to. */
  readonly active?: ReadonlySet<string>;
  /** `--shared`: look at VGs that need lvmlockd. */
  readonly allowShared: boolean;
}

/** A host without a system ID and without permission for anything special. */
export const PLAIN_HOST: HostContext = { systemId: null, extraSystemIds: [], allowForeign: false, allowShared: false };

const CLUSTERED_ADVICE = 'See lvmlockd(8) for changing a clvm/clustered VG to a shared VG.';

/** What keeps a host from a VG. */
export type Barrier = 'clustered' | 'shared' | 'foreign';

/** What keeps this host from reading the VG; null: nothing. */
export function barrierOf(vg: VolumeGroupText, host: HostContext): Barrier | null {
  if (vg.status.includes('CLUSTERED')) return 'clustered';
  if (isShared(vg) && !host.allowShared) return 'shared';
  const allowed = host.allowForeign || host.active?.has(vg.id) === true;
  return isForeign(vg, host) && !allowed ? 'foreign' : null;
}

/** Why this host may not read the VG, in LVM2's words; null if it may. */
export function accessProblem(vg: VolumeGroupText, host: HostContext): string | null {
  const barrier = barrierOf(vg, host);
  if (barrier === 'clustered') return `Cannot access clustered VG ${vg.name}.`;
  if (barrier === 'shared') return `Cannot access VG ${vg.name} with lock type ${lockType(vg)} that requires lvmlockd.`;
  return barrier === 'foreign' ? foreignMessage(vg, host) : null;
}

/** A problem with what can be done about it: for who named the VG. */
export function withAdvice(vg: VolumeGroupText, problem: string): readonly string[] {
  return vg.status.includes('CLUSTERED') ? [problem, CLUSTERED_ADVICE] : [problem];
}

/** What is said of the VG where it is met and passed over, for nobody named it; of an exported or shared one nothing. */
export function passedOverLines(vg: VolumeGroupText, host: HostContext): readonly string[] {
  const barrier = barrierOf(vg, host);
  if (barrier === 'clustered') return [`Skipping clustered VG ${vg.name}.`, CLUSTERED_ADVICE];
  return barrier === 'foreign' ? [foreignMessage(vg, host)] : [];
}

/** Why a PV that was named can't be worked on. */
export function refusedPvLines(
  vg: VolumeGroupText,
  barrier: Barrier | 'exported',
  device: string | null,
): readonly string[] {
  return barrier === 'clustered' ? [] : [`Cannot use PV ${device ?? '[unknown]'} in ${barrier} VG ${vg.name}.`];
}

/** What keeps this host from changing the VG, whatever it may look at; null: nothing. */
export function changeBarrierOf(vg: VolumeGroupText, host: HostContext): Barrier | 'exported' | null {
  return barrierOf(vg, forChanges(host)) ?? (isExported(vg) ? 'exported' : null);
}

/** Why the VG's volumes may not be activated or changed by this host, whatever it may look at; null if they may. */
export function useProblem(vg: VolumeGroupText, host: HostContext): string | null {
  const access = accessProblem(vg, forChanges(host));
  if (access !== null) return access;
  return isExported(vg) ? `Volume group ${vg.name} is exported` : null;
}

function forChanges(host: HostContext): HostContext {
  return { ...host, allowForeign: false, allowShared: false };
}

export function isExported(vg: VolumeGroupText): boolean {
  return vg.status.includes('EXPORTED');
}

/** Whether the VG's locks are kept by lvmlockd (`lock_type` sanlock, dlm or idm). */
export function isShared(vg: VolumeGroupText): boolean {
  return lockType(vg) !== 'none' || vg.status.includes('SHARED');
}

/** Whether the VG belongs to another host. */
export function isForeign(vg: VolumeGroupText, host: HostContext): boolean {
  const owner = vg.systemId ?? '';
  if (owner === '') return false;
  // A host that has none of its own has no others either.
  return host.systemId === null || (owner !== host.systemId && !host.extraSystemIds.includes(owner));
}

/** The warning where LVs of another host's VG are active here. */
export function activeForeignMessage({ name, systemId }: VolumeGroupText): string {
  return `WARNING: Found LVs active in VG ${name} with foreign system ID ${systemId}.  Possible data corruption.`;
}

function lockType(vg: VolumeGroupText): string {
  return vg.lockType === undefined || vg.lockType === '' ? 'none' : vg.lockType;
}

function foreignMessage(vg: VolumeGroupText, host: HostContext): string {
  const local = host.systemId === null ? 'unknown local system ID' : `local system ID ${host.systemId}`;
  return `Cannot access VG ${vg.name} with system ID ${vg.systemId} with ${local}.`;
}
