/**
 * Which PVs a changing command works on: devices, tags, or all; those of a VG under its lock, orphans under P_global
 * (facts: LVM2 tools/toollib.c process_each_pv).
 *
 * Invariants
 *  - PVs of a VG that this host may not change (exported, another host's, shared, clustered) are left alone: that is a failure only of
 *    those that were named.
 *  - What was found before the lock is found again under it, or the PV is not touched.
 *  - One PV's failure does not keep the others from being done.
 */
import { type Barrier, changeBarrierOf, type HostContext, passedOverLines, refusedPvLines } from '../lvm/access.ts';
import type { ChangeContext } from '../lvm/change-context.ts';
import type { Changes } from '../lvm/changes.ts';
import { withChanges } from '../lvm/command.ts';
import { CommandError as Refusal } from '../lvm/edit/errors.ts';
import type { PhysicalVolume, Scan, VolumeGroup } from '../lvm/model.ts';
import { deviceNamed } from '../lvm/pv-devices.ts';
import { vgsInOrder } from '../lvm/vg-order.ts';
import type { CommandContext } from './command.ts';
import { Criteria } from './criteria.ts';
import { CommandError, EXIT, type ExitCode, worse } from './messages.ts';
import { isTag } from './report/arguments.ts';

export interface PvTarget {
  readonly changes: Changes;
  /** Null: an orphan. */
  readonly group: VolumeGroup | null;
  readonly pv: PhysicalVolume;
}

export interface PvTargetOptions {
  readonly all: boolean;
  /** Only PVs of this VG. */
  readonly vgName?: string;
  readonly names: readonly string[];
  /** Orphans need P_global for writing; some commands want it for all. */
  readonly globalLock: 'read' | 'write';
}

/** PVs of one VG, or orphans, by their devices' identities. */
interface Batch {
  readonly vgName: string | null;
  readonly vgId?: string;
  readonly identities: readonly string[];
  /** Devices that were named, and how. */
  readonly named: ReadonlyMap<string, string>;
}

/** Runs `body` on each PV, with -S on those that match; the worst result is given. */
export async function eachPv(
  context: CommandContext,
  change: ChangeContext,
  options: PvTargetOptions,
  body: (target: PvTarget) => Promise<void>,
): Promise<ExitCode> {
  const criteria = new Criteria(context, 'pv');
  let code: ExitCode = EXIT.ok;
  const { identities, batches } = await withChanges(change, { globalLock: 'read' }, async ({ scan }) => {
    const wanted = await identitiesOf(context, scan, options);
    return { identities: wanted, batches: batchesOf(scan, wanted, options, change.host) };
  });
  if (identities.failed) code = EXIT.failed;
  const reached = new Set<string>();
  for (const batch of batches)
    code = worse(
      code,
      await runBatch(change, options, batch, reached, async (target) => {
        if (criteria.takesPv(target.changes.scan, target.group, target.pv)) await body(target);
      }),
    );
  for (const [identity, name] of identities.named) {
    if (reached.has(identity)) continue;
    change.err(`Failed to find physical volume "${name}".`);
    code = EXIT.failed;
  }
  return code;
}

interface Identities {
  /** Null: all. */
  readonly found: ReadonlySet<string> | null;
  /** Devices that were named, and how. */
  readonly named: ReadonlyMap<string, string>;
}

async function identitiesOf(
  { output }: CommandContext,
  scan: Scan,
  { names, vgName, all }: PvTargetOptions,
): Promise<Identities & { readonly failed: boolean }> {
  const named = new Map<string, string>();
  if (all) return { found: null, named, failed: false };
  const tagged = new Set<string>();
  let failed = false;
  for (const name of names) {
    const problem = name.startsWith('@')
      ? addTagged(scan, name.slice(1), vgName, tagged)
      : await addNamed(scan, name, named);
    if (problem === null) continue;
    output.error(problem);
    failed = true;
  }
  return { found: new Set([...named.keys(), ...tagged]), named, failed };
}

function addTagged(scan: Scan, tag: string, vgName: string | undefined, found: Set<string>): string | null {
  if (!isTag(tag)) return `Skipping invalid tag ${tag}.`;
  for (const { vg, pvs } of scan.volumeGroups) {
    if (vgName !== undefined && vg.name !== vgName) continue;
    const whole = vg.tags.includes(tag);
    for (const pv of pvs) {
      if (pv.found !== null && (whole || pv.text?.tags.includes(tag) === true)) found.add(pv.found.device.identity);
    }
  }
  return null;
}

async function addNamed(scan: Scan, name: string, named: Map<string, string>): Promise<string | null> {
  const device = await deviceNamed(scan, name);
  if (device === null) return `Cannot use ${name}: device not found`;
  if (!named.has(device.identity)) named.set(device.identity, name);
  return null;
}

/** VGs are met in order until everything that was named is found, orphans after them. */
function batchesOf(
  scan: Scan,
  { found, named }: Identities,
  { vgName, all, names }: PvTargetOptions,
  host: HostContext,
): readonly Batch[] {
  const wanted = (pvs: readonly PhysicalVolume[]): readonly string[] =>
    pvs.flatMap((pv) => pv.found?.device.identity ?? []).filter((identity) => found?.has(identity) ?? true);
  const onlyNamed = !all && !names.some((name) => name.startsWith('@'));
  const left = new Set(named.keys());
  const batches: Batch[] = [];
  for (const { vg, pvs } of vgsInOrder(scan)) {
    if (onlyNamed && left.size === 0) break;
    if (vgName !== undefined && vg.name !== vgName) continue;
    const identities = wanted(pvs);
    for (const identity of identities) left.delete(identity);
    if (identities.length > 0 || passedOverLines(vg, host).length > 0) {
      batches.push({ vgName: vg.name, vgId: vg.id, identities, named });
    }
  }
  const orphans = vgName === undefined ? wanted(scan.orphans) : [];
  if (orphans.length > 0) batches.push({ vgName: null, identities: orphans, named });
  return batches;
}

async function runBatch(
  change: ChangeContext,
  options: PvTargetOptions,
  { vgName, vgId, identities, named }: Batch,
  reached: Set<string>,
  body: (target: PvTarget) => Promise<void>,
): Promise<ExitCode> {
  const globalLock = vgName === null ? 'write' : options.globalLock;
  const vgs = vgName === null ? [] : [{ name: vgName, mode: 'write' as const }];
  return guarded(change, () =>
    withChanges(change, { globalLock, vgs }, async (changes) => {
      let code: ExitCode = EXIT.ok;
      const group = changes.scan.volumeGroups.find(({ vg }) => vg.id === vgId);
      const barrier = group === undefined ? null : changeBarrierOf(group.vg, change.host);
      if (group !== undefined && barrier !== null) {
        for (const identity of identities) reached.add(identity);
        return refuseAll(change, group, barrier, named);
      }
      if (vgName !== null) await changes.volumeGroup({ vgName, ...(vgId === undefined ? {} : { vgId }) });
      else changes.warnOfOrphans();
      for (const identity of identities) {
        reached.add(identity);
        const target = targetOf(changes, vgId, identity);
        if (target === null) {
          change.err('Failed to find a physical volume again under its lock: it was changed meanwhile.');
          code = EXIT.failed;
          continue;
        }
        code = worse(
          code,
          await guarded(change, async () => {
            await body(target);
            return EXIT.ok;
          }),
        );
      }
      return code;
    }),
  );
}

/** PVs of a VG that can't be changed: only those that were named fail. */
function refuseAll(
  change: ChangeContext,
  { vg, pvs }: VolumeGroup,
  barrier: Barrier | 'exported',
  named: Batch['named'],
): ExitCode {
  for (const line of passedOverLines(vg, change.host)) change.err(line);
  let code: ExitCode = EXIT.ok;
  for (const { found } of pvs) {
    if (found === null || !named.has(found.device.identity)) continue;
    for (const line of refusedPvLines(vg, barrier, found.device.path)) change.err(line);
    code = EXIT.failed;
  }
  return code;
}

function targetOf(changes: Changes, vgId: string | undefined, identity: string): PvTarget | null {
  const group = changes.scan.volumeGroups.find(({ vg }) => vg.id === vgId) ?? null;
  const pvs = vgId === undefined ? changes.scan.orphans : (group?.pvs ?? []);
  const pv = pvs.find((candidate) => candidate.found?.device.identity === identity);
  return pv === undefined ? null : { changes, group, pv };
}

async function guarded(change: ChangeContext, work: () => Promise<ExitCode>): Promise<ExitCode> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof Refusal || error instanceof CommandError)) throw error;
    for (const line of error.lines) change.err(line);
    return error.exitCode;
  }
}
