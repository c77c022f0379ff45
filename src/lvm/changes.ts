/**
 * Work under locks: the scan, the VGs in it that may be changed, and plans that are checked, committed, followed by the daemon's volumes, and
 * told of.
 *
 * Invariants
 *  - A plan that would leave something invalid is refused before the first byte; with `--test` nothing is ever written, and
 *    the session goes on as if it had been.
 *  - A plan's messages are printed when they are true: those for `after` never follow a failure.
 *  - Volumes that a daemon serves follow every commit before its lock is let go (lvm/live.ts).
 */
import type { OpenedDevice } from '../block/device.ts';
import { DeviceError } from '../block/errors.ts';
import type { TextHeader } from '../ondisk/metadata.ts';
import { encodeText } from '../ondisk/text-bytes.ts';
import type { PrintContext } from '../ondisk/vg-print.ts';
import { printMetadataText } from '../ondisk/vg-text.ts';
import { isValidName } from '../ondisk/vg-validate.ts';
import { accessProblem, type HostContext, isExported, useProblem, withAdvice } from './access.ts';
import { BackupFiles } from './archive.ts';
import type { ChangeContext, EffectContext, EffectRunners, LockChoice, VolumeGroupRequest } from './change-context.ts';
import { type CommitContext, type Committed, commitPlan, nextMetadata } from './commit.ts';
import { groupAfter, scanAfter } from './edit/after.ts';
import { describePlan } from './edit/describe.ts';
import { CommandError } from './edit/errors.ts';
import type { Effect, Plan, PlanMessage } from './edit/plan.ts';
import { validatePlan } from './edit/validate.ts';
import { sizeWarnings } from './group.ts';
import { dropHints } from './hints.ts';
import { type LiveProblem, NO_LIVE_VOLUMES } from './live.ts';
import { liveChangeOf, type LiveWishes, withoutNew } from './live-change.ts';
import { GLOBAL_LOCK, type HeldLocks, vgLock } from './locks.ts';
import type { Scan, ScannedDevice, VolumeGroup } from './model.ts';
import { openExclusively } from './open.ts';
import { needsRepair, repairPlan } from './repair.ts';
import { scanDevices } from './scan.ts';
import { withServed } from './served.ts';

/** What a command says of a commit besides its plan. */
interface ApplyWishes extends Omit<LiveWishes, 'force'> {
  /** Names of LVs without which the change is not what was asked for: where the daemon can't make them follow, `apply` throws Unfollowed. */
  readonly mustFollow?: readonly string[];
  /** Called before the first write, when the daemon holds its volumes ready for the change; when it throws, nothing is written. */
  readonly ready?: () => Promise<void>;
  /** It undoes what the command has done, which it does also when it is cancelled. */
  readonly undoes?: boolean;
}

/** What was committed is on the disks, and the volumes that it was for are not what it says. */
export class Unfollowed extends CommandError {}

/** Work under locks. */
export class Changes {
  readonly context: ChangeContext;
  readonly #locks: HeldLocks;
  readonly #locked: Set<string>;
  readonly #files: BackupFiles;
  readonly #said = new Set<string>();
  /** Commits so far, by VG id: the second one's description says so. */
  readonly #writes = new Map<string, number>();
  #scan: Scan | null = null;
  #globalIsOut = false;

  constructor(context: ChangeContext, locks: HeldLocks, choice: LockChoice) {
    this.context = context;
    this.#locks = locks;
    this.#locked = new Set(choice.vgs?.map(({ name }) => name));
    this.#files = new BackupFiles(context.backup, (line) => context.err(line));
  }

  /** As read under the locks, with what this session has committed since. */
  get scan(): Scan {
    if (this.#scan === null) throw new TypeError('nothing was scanned yet');
    return this.#scan;
  }

  /** Reads the devices again, `added` ones besides. */
  async rescan(added: readonly string[] = []): Promise<Scan> {
    const scan = await scanDevices([...this.context.devices, ...added], this.context.scan);
    this.#scan = await withServed(scan, this.context.live);
    for (const { message, vgName, orphan } of this.#scan.warnings) {
      if (vgName === undefined && orphan !== true) this.#say(message);
    }
    return this.#scan;
  }

  /** Prints what is wrong with PVs that are in no VG: for commands about PVs. */
  warnOfOrphans(): void {
    for (const { message, orphan } of this.scan.warnings) if (orphan === true) this.#say(message);
  }

  /**
   * The VG, if this command may change it; throws CommandError with LVM2's reasons. A VG that isn't locked yet is locked (names
   * must come in alphabetical order), and the devices are read again.
   */
  async volumeGroup(request: VolumeGroupRequest): Promise<VolumeGroup> {
    const name = request.vgName === '' ? (this.#lookup(request)?.vg.name ?? request.vgId ?? '') : request.vgName;
    if (!this.#locked.has(name) && isValidName(name)) {
      if (this.context.locking !== null) {
        await this.#locks.add(vgLock(name, request.mode ?? 'write'), this.context.locking);
      }
      this.#locked.add(name);
      await this.rescan();
    }
    for (const { message, vgName } of this.scan.warnings) if (vgName === name) this.#say(message);
    const group = this.#lookup(request);
    if (group === null) throw this.#notFound(name);
    checkUsable(group, request, this.context.host);
    const repairs = this.context.autoRecovery === true && request.mode !== 'read' && needsRepair(group);
    return repairs ? ((await this.apply(repairPlan(group))) ?? group) : group;
  }

  /** Lets P_global go while a question waits for its answer, as LVM2 does: nobody else has to wait for it. */
  async letGlobalGo(): Promise<void> {
    this.#globalIsOut = await this.#locks.letGo(GLOBAL_LOCK);
  }

  /** Takes P_global again, if it was let go, and reads the devices again. Throws CommandError if somebody has it. */
  async retakeGlobal(): Promise<void> {
    if (!this.#globalIsOut || this.context.locking === null) return;
    try {
      await this.#locks.retake({ resource: GLOBAL_LOCK, mode: 'write' }, this.context.locking);
    } catch (error) {
      if (!(error instanceof CommandError)) throw error;
      throw new CommandError([...error.lines, 'Failed to reacquire global lock after prompt.'], 5, { cause: error });
    }
    this.#globalIsOut = false;
    await this.rescan();
  }

  /** Locks a name that no VG has yet (vgcreate, the new name of vgrename and vgsplit). */
  async lockName(name: string): Promise<void> {
    if (this.#locked.has(name)) return;
    if (!isValidName(name)) throw new CommandError(`New volume group name "${name}" is invalid.`);
    if (this.context.locking !== null) await this.#locks.add(vgLock(name, 'write'), this.context.locking);
    this.#locked.add(name);
    await this.rescan();
  }

  #lookup({ vgName, vgId }: VolumeGroupRequest): VolumeGroup | null {
    const found = this.scan.volumeGroups.filter(
      ({ vg }) => (vgName === '' || vg.name === vgName) && (vgId === undefined || vg.id === vgId),
    );
    if (found.length < 2) return found[0] ?? null;
    const own = found.filter(({ vg }) => accessProblem(vg, this.context.host) === null);
    if (own.length === 1) return own[0] ?? null;
    throw new CommandError([
      `Multiple VGs found with the same name: skipping ${vgName}`,
      'Use --select vg_uuid=<uuid> in place of the VG name.',
    ]);
  }

  #notFound(name: string): CommandError {
    const reason = isValidName(name)
      ? `Volume group "${name}" not found`
      : `Volume group name "${name}" has invalid characters.`;
    return new CommandError([reason, `Cannot process volume group ${name}`]);
  }

  /**
   * Validates and carries out a plan; gives the VG as it then is (null: removed, or none). The session's scan follows. With
   * `--test` all but the writing is done. Throws CommandError: the VG is as before, unless its lines say otherwise.
   */
  async apply(plan: Plan, wishes: ApplyWishes = {}): Promise<VolumeGroup | null> {
    if (wishes.undoes !== true && this.context.signal?.aborted === true) throw new CommandError('Interrupted...');
    this.#refuse(plan);
    const checked = validatePlan(plan, this.context.limits);
    this.#print(checked, 'before');
    const header = this.#header(checked);
    const print = this.#printContext();
    const group = this.context.test
      ? this.#follow(checked, this.#pretend(checked, header, print))
      : await this.#applyLive(checked, wishes, { header, print, warn: (message) => this.context.err(message) });
    this.#print(checked, 'after');
    return group;
  }

  /** The session's view after a commit. */
  #follow(plan: Plan, outcome: Committed): VolumeGroup | null {
    const group = groupAfter(plan, outcome);
    this.#scan = scanAfter(this.scan, plan, group);
    if (group !== null && (plan.joining?.length ?? 0) > 0 && this.context.scan?.checkPvSizes !== false) {
      for (const { message } of sizeWarnings(group)) this.#say(message);
    }
    return group;
  }

  /**
   * Commits, with the daemon's volumes held off before and following after. What is new is wiped before it is served; what is
   * freed is erased after no table leads there any more.
   */
  async #applyLive(
    plan: Plan,
    { ready, mustFollow = [], ...wishes }: ApplyWishes,
    around: Omit<CommitContext, 'open'>,
  ): Promise<VolumeGroup | null> {
    const { live = NO_LIVE_VOLUMES, force } = this.context;
    const change = live.present ? liveChangeOf(plan, { ...wishes, force: force > 0 }) : null;
    // Until it is wiped, a new volume is not to be served, not even if this process dies.
    if (change !== null) await live.prepare(withoutNew(change));
    this.context.writing?.(null);
    let outcome: Committed;
    try {
      await ready?.();
      await this.#runEffects(plan, withPlanned(plan), (effect) => isBefore(effect));
      outcome = await this.#commit(plan, around);
    } catch (error) {
      if (change !== null) await live.abandoned(change);
      throw error;
    }
    this.context.writing?.(plan);
    const group = this.#follow(plan, outcome);
    let complete = false;
    let problems: readonly LiveProblem[] = [];
    try {
      if (outcome.metadata !== null) await this.#files.backup(outcome.metadata, this.context.writer, around.print);
      if (outcome.problems.length > 0) throw new CommandError(outcome.problems);
      await this.#runEffects(plan, group, (effect) => effect.kind === 'wipe-lv' && !isBefore(effect));
      complete = true;
    } finally {
      // Whatever went wrong after the commit, the volumes are what the metadata says before the lock is let go.
      if (change !== null) problems = await live.committed(complete ? change : withoutNew(change));
      this.#tellProblems(problems);
    }
    const needed = new Set(mustFollow.map((name) => `${group?.vg.name}/${name}`));
    if (problems.some(({ volume }) => needed.has(volume.name))) throw new Unfollowed([]);
    await this.#runEffects(plan, group, ({ kind }) => kind === 'erase');
    return group;
  }

  #tellProblems(problems: readonly LiveProblem[]): void {
    for (const { volume, reason } of problems)
      this.context.err(`WARNING: ${volume.name} is not served as its metadata says: ${reason}.`);
  }

  #pretend(plan: Plan, header: TextHeader, print: PrintContext): Committed {
    for (const line of describePlan(plan)) this.context.out(line);
    const metadata = plan.after === null ? null : nextMetadata(plan, plan.after, header);
    const text = metadata === null ? null : encodeText(printMetadataText(metadata, 'disk', print));
    return { metadata, problems: [], text, texts: new Map() };
  }

  async #commit(plan: Plan, around: Omit<CommitContext, 'open'>): Promise<Committed> {
    const { before, after, labels, wipes, joining } = plan;
    if (before !== null) await this.#files.archive(before.metadata, this.context.writer, around.print);
    const changesPvs = labels.length + wipes.length + (joining?.length ?? 0) > 0 || after === null;
    const { hintsDirectory } = this.context;
    // Before, for a crash; and after, since LVM2 may have made new hints meanwhile.
    if (changesPvs && hintsDirectory !== null) await dropHints(hintsDirectory);
    const committed = await reported(() => commitPlan(plan, { ...around, open: (device) => this.openDevice(device) }));
    if (changesPvs && hintsDirectory !== null) await dropHints(hintsDirectory);
    if (changesPvs) await this.context.pvsChanged?.(plan, this.scan);
    if (before !== null && before.vg.name !== after?.name) await this.#files.remove(before.vg.name);
    return committed;
  }

  #refuse({ before, after }: Plan): void {
    // LVM2 removes such a VG once it is empty: the LVs are a change of their own.
    if (before === null || (after === null && before.vg.logicalVolumes.length === 0)) return;
    if (before.hasDuplicates && this.context.allowDuplicates !== true) {
      throw new CommandError(`Cannot update volume group ${before.vg.name} with duplicate PV devices.`);
    }
  }

  async #runEffects(plan: Plan, group: VolumeGroup | null, isDue: (effect: Effect) => boolean): Promise<void> {
    const around: EffectContext = { group, open: (device) => this.openDevice(device), change: this.context };
    for (const effect of plan.effects) {
      if (isDue(effect)) await reported(() => runEffect(this.context.effects, effect, around));
    }
  }

  /** Opens a device for writing. Throws CommandError: it can't be had, or is no longer the one that was read. */
  async openDevice(device: ScannedDevice): Promise<OpenedDevice> {
    const open = this.context.open ?? openExclusively;
    const opened = await open(device.path);
    if (opened.identity === device.identity) return opened;
    await opened.close();
    throw new CommandError(`${device.path}: is no longer the device that was read; try again.`);
  }

  #header({ before, after }: Plan): TextHeader {
    const { writer, host } = this.context;
    const id = (after ?? before?.vg)?.id ?? '';
    const count = (this.#writes.get(id) ?? 0) + 1;
    this.#writes.set(id, count);
    return {
      contents: 'Text Format Volume Group',
      version: 1,
      description: `Write${count === 1 ? '' : `[${count}]`} from ${writer.commandLine}.`,
      creationHost: writer.hostName,
      ...(host.systemId === null ? {} : { creationHostSystemId: host.systemId }),
      creationTime: this.context.now(),
    };
  }

  #printContext(): PrintContext {
    const { generator, uname } = this.context.writer;
    return { generator, uname, time: this.context.now() };
  }

  #print({ messages }: Plan, when: PlanMessage['when']): void {
    for (const message of messages) {
      if (message.when !== when) continue;
      if (message.stream === 'stdout') this.context.out(message.text);
      else this.context.err(message.text);
    }
  }

  #say(message: string): void {
    if (this.#said.has(message)) return;
    this.#said.add(message);
    this.context.err(message);
  }
}

function isBefore(effect: Effect): boolean {
  return effect.kind === 'wipe-lv' && effect.beforeCommit === true;
}

/** The VG with what the plan says, though nothing of it is committed. */
function withPlanned({ before, after }: Plan): VolumeGroup | null {
  if (before === null || after === null) return before;
  const texts = new Map(after.physicalVolumes.map((text) => [text.id, text]));
  const pvs = before.pvs.map((pv) => {
    const text = texts.get(pv.uuid);
    return text === undefined ? pv : { ...pv, text };
  });
  return { ...before, vg: after, pvs };
}

/** Why this host may not change the VG at all; null if it may. */
export function refusal(
  vg: VolumeGroup['vg'],
  host: HostContext,
  { allowExported = false, allowForeign = false }: Pick<VolumeGroupRequest, 'allowExported' | 'allowForeign'>,
): string | null {
  return allowExported && (isExported(vg) || allowForeign)
    ? accessProblem(vg, { ...host, allowForeign, allowShared: false })
    : useProblem(vg, host);
}

function checkUsable(group: VolumeGroup, request: VolumeGroupRequest, host: HostContext): void {
  const { vg } = group;
  const problem = refusal(vg, host, request);
  if (problem !== null) throw new CommandError(withAdvice(vg, problem));
  if (request.mode === 'read') return;
  const cannot = `Cannot process volume group ${vg.name}`;
  if (!vg.status.includes('WRITE')) throw new CommandError([`Volume group ${vg.name} is read-only.`, cannot]);
  if (group.partial && request.handlesMissing !== true) {
    throw new CommandError([
      `Cannot change VG ${vg.name} while PVs are missing.`,
      'See vgreduce --removemissing and vgextend --restoremissing.',
      cannot,
    ]);
  }
  const unknown = vg.logicalVolumes.some((lv) => lv.segments.some((segment) => segment.type === 'unknown'));
  if (unknown && request.handlesUnknownSegments !== true) {
    throw new CommandError([`Cannot change VG ${vg.name} with unknown segments in it!`, cannot]);
  }
}

/** A device's failure as the command's. */
async function reported<Result>(work: () => Promise<Result>): Promise<Result> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof DeviceError)) throw error;
    throw new CommandError(error.message, 5, { cause: error });
  }
}

function runEffect(runners: EffectRunners, effect: Effect, around: EffectContext): Promise<void> {
  return effect.kind === 'wipe-lv' ? runners['wipe-lv'](effect, around) : runners.erase(effect, around);
}
