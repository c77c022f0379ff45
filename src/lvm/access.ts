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

/** Why this host may not read the VG, in LVM2's words; null if it may. */
export function accessProblem(vg: VolumeGroupText, host: HostContext): string | null {
  if (vg.status.includes('CLUSTERED')) return `Cannot access clustered VG ${vg.name}.`;
  if (isShared(vg) && !host.allowShared) {
    return `Cannot access VG ${vg.name} with lock type ${lockType(vg)} that requires lvmlockd.`;
  }
  const allowed = host.allowForeign || host.active?.has(vg.id) === true;
  if (isForeign(vg, host) && !allowed) return foreignMessage(vg, host);
  return null;
}

/** Why the VG's volumes may not be activated or changed by this host, whatever it may look at; null if they may. */
export function useProblem(vg: VolumeGroupText, host: HostContext): string | null {
  const access = accessProblem(vg, { ...host, allowForeign: false, allowShared: false });
  if (access !== null) return access;
  return isExported(vg) ? `Volume group ${vg.name} is exported` : null;
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
