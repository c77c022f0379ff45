/**
 * The volumes of one VG on their way to what the metadata says:
 *
 *     let go what leaves → gather what changes at one worker → load new tables, what is new gets ready → suspend what changed → resume it,
 *     and what is new
 *
 * Invariants
 *  - Tables are loaded, and their devices opened, before anything is suspended.
 *  - Extents never belong to two tables that do I/O: what is new begins when everything that changed has its new table. If something
 *    can't be let go or suspended (a device hangs), all that changes goes on with the table that it had, and its problem is told.
 *  - What can't be loaded goes on with the table that it had, if that is still its own; else it is no longer served.
 *  - No origin waits for a snapshot that is lost that way: it goes on without one that is new, and without one that it had takes no writes.
 *  - A worker that dies in between is no failure: the next one gets what was to be, and the change is done again.
 */
import type { LiveProblem, VolumeId } from '../lvm/live.ts';
import { byHost, endOf, type HostOf, keepsPlace, muted, namedBy, type Step } from './group-steps.ts';
import { keepsExtents } from './kept-extents.ts';
import { lossOf, mayStay } from './lost-snapshots.ts';
import { type ActivePlan, type DesiredVolume, type Load, preferredBlockBytes, ServedVolume } from './served-volume.ts';
import { deviceKey, type DeviceSpec, type VolumeFacts, type VolumeSpec, type WorkerHost } from './worker/host.ts';
import type { WorkerSlot } from './worker/pool.ts';
import { WorkerError } from './worker/protocol.ts';

/** What hangs longer is not waited for: the volume goes on with the table it has. */
export const SUSPEND_TIMEOUT_MS = 20_000;
/** How long a change waits for a worker that is being started again. */
export const WORKER_TIMEOUT_MS = 30_000;
const ATTEMPTS = 3;

/** What a change works on. */
export interface ChangedSet {
  servedOf(vgId: string): readonly ServedVolume[];
  servedById(id: VolumeId): ServedVolume | undefined;
  /** A place for a new volume: with those that it shares something with, else where the fewest are. */
  place(shareKey: string | null): WorkerSlot;
  add(served: ServedVolume): void;
  /** Where volumes with this key are; null: there are none. */
  homeOf(shareKey: string): WorkerSlot | null;
  /** From now on it shares this. */
  share(served: ServedVolume, shareKey: string | null): void;
  /** Lets the clients go, flushes and closes the volume. Gives whether it is gone: if not, its end goes on behind our back. */
  retire(served: ServedVolume, reason: string): Promise<boolean>;
  /** Sees to it that only the volume's own worker serves it. Throws a WorkerError when that can't be. */
  gather(served: ServedVolume): Promise<void>;
  /** Lets volumes go on that are held, with the tables that they have. */
  resume(ids: readonly VolumeId[]): Promise<void>;
  /** It is not active, and why. */
  refuse(volume: DesiredVolume, reason: string): void;
  /** A volume's table is live. */
  went(served: ServedVolume, isNew: boolean): void;
  warn(name: string, problem: string): void;
  fail(name: string, reason: string): void;
}

export class GroupChange {
  readonly #set: ChangedSet;
  readonly #vgId: string;
  readonly #desired: readonly DesiredVolume[];
  readonly #resolve: (path: string) => DeviceSpec | undefined;
  readonly #reload: ReadonlySet<VolumeId>;
  readonly #problems: LiveProblem[] = [];
  /** What this attempt could not load and let go: what an origin is told that names it. */
  readonly #lost = new Map<VolumeId, string>();
  /** What it could not load, and can't let go. */
  #stuck: string | null = null;

  /** `resolve` gives the claimed device that a table names; `reload`: volumes to be loaded again though they did not change. */
  constructor(
    set: ChangedSet,
    group: { readonly vgId: string; readonly desired: readonly DesiredVolume[] },
    resolve: (path: string) => DeviceSpec | undefined,
    reload: ReadonlySet<VolumeId>,
  ) {
    this.#set = set;
    this.#vgId = group.vgId;
    this.#desired = group.desired;
    this.#resolve = resolve;
    this.#reload = reload;
  }

  /** Gives what should be active and isn't, or has not followed. */
  async run(): Promise<readonly LiveProblem[]> {
    for (const volume of this.#desired) {
      if (!volume.plan.active) this.#set.refuse(volume, volume.plan.reason);
    }
    const stuck = await this.#letGo();
    if (stuck.length > 0) {
      await this.#giveUp(`it can't follow before ${stuck.join(', ')} is let go`);
      return this.#problems;
    }
    for (let attempt = 1; ; attempt++) {
      try {
        await this.#follow(this.#steps());
        return this.#problems;
      } catch (error) {
        if (!(error instanceof WorkerError)) throw error;
        if (error.code === 'GONE' && attempt < ATTEMPTS) continue;
        await this.#giveUp(error.message);
        return this.#problems;
      }
    }
  }

  /** Nothing follows any more: tells it of all that would have to. */
  async #giveUp(reason: string): Promise<void> {
    await this.#standBack();
    for (const desired of this.#desired) {
      const { plan } = desired;
      const served = this.#set.servedById(desired.id);
      if (!plan.active || served?.leaving === true) continue;
      if (served === undefined || served.planKey === '') {
        if (served !== undefined) await this.#set.retire(served, reason);
        this.#refuse(desired, reason);
      } else if (served.next !== null || served.planKey !== plan.key || !served.live)
        this.#stay(served, desired, reason);
    }
  }

  /**
   * What an attempt has loaded and not exchanged is dropped, and what it has suspended goes on. Where there is no worker the next one has
   * them with its other volumes.
   */
  async #standBack(): Promise<void> {
    const begun = this.#set.servedOf(this.#vgId).filter(({ next, shown }) => next !== null && shown);
    for (const served of begun) {
      const { host } = served.slot;
      if (host === null) served.held = false;
      else await host.clear([served.id]).catch(ignoreGone);
    }
    await this.#set.resume(begun.map(({ id }) => id));
  }

  /** It goes on with the table that it has. */
  #stay(served: ServedVolume, { id, name }: DesiredVolume, reason: string): void {
    served.next = null;
    served.problem = reason;
    this.#set.warn(served.name, reason);
    this.#problems.push({ volume: { id, name }, reason });
  }

  /** Retires what leaves. Gives the names of what can't be let go: nothing may take its extents. */
  async #letGo(): Promise<readonly string[]> {
    const wanted = new Map(this.#desired.map((volume) => [volume.id, volume]));
    const strangers = this.#strangers();
    const outcomes = await Promise.all(
      this.#set.servedOf(this.#vgId).map(async (served) => {
        const moves = strangers.has(served) ? 'it moves to the worker of what it shares something with' : null;
        const reason = endOf(served, wanted.get(served.id)) ?? moves;
        if (reason === null || (await this.#set.retire(served, reason))) return [];
        const { id, name } = served;
        this.#problems.push({ volume: { id, name }, reason: `${name} can't be let go: its device does not answer` });
        return [name];
      }),
    );
    return outcomes.flat();
  }

  /** Volumes that from now on share something with others, which are with another worker. */
  #strangers(): ReadonlySet<ServedVolume> {
    const strangers = new Set<ServedVolume>();
    for (const { id, plan } of this.#desired) {
      const served = this.#set.servedById(id);
      if (!plan.active || served === undefined || served.leaving || served.shareKey === plan.shareKey) continue;
      const home = plan.shareKey === null ? null : this.#set.homeOf(plan.shareKey);
      if (home !== null && home !== served.slot) strangers.add(served);
      else this.#set.share(served, plan.shareKey);
    }
    return strangers;
  }

  /** What has to be loaded; the rest only gets its new description. */
  #steps(): readonly Step[] {
    const steps: Step[] = [];
    for (const desired of this.#desired) {
      const { plan } = desired;
      if (!plan.active) continue;
      const load = this.#loadOf(desired, plan);
      if (load === null) continue;
      const existing = this.#set.servedById(desired.id);
      if (existing === undefined) {
        const served = new ServedVolume(desired, plan, this.#set.place(plan.shareKey), load);
        // Others that share something with it are placed by where it is.
        this.#set.add(served);
        steps.push({ desired, plan, served, load, isNew: true });
        continue;
      }
      const { problem } = plan;
      if (problem !== undefined && problem !== existing.problem) this.#set.warn(desired.name, problem);
      const isLoaded = existing.live && !existing.held && existing.load.key === load.key;
      if (isLoaded && !this.#reload.has(desired.id)) {
        this.#describe(existing, desired, plan);
      } else {
        existing.next = load;
        steps.push({ desired, plan, served: existing, load, isNew: existing.planKey === '' });
      }
    }
    return steps;
  }

  #loadOf(desired: DesiredVolume, plan: ActivePlan): Load | null {
    const { id, name, description, contexts } = desired;
    const devices: DeviceSpec[] = [];
    for (const path of plan.devices) {
      const device = this.#resolve(path);
      if (device === undefined) {
        this.#refuse(desired, `${path} is not open`);
        return null;
      }
      devices.push(device);
    }
    const { table, readOnly } = plan;
    const preferredBlockSize = preferredBlockBytes(table);
    const spec = { id, name, description, table, readOnly, preferredBlockSize, devices, contexts };
    return { spec, key: JSON.stringify([plan.key, readOnly, devices.map(deviceKey)]) };
  }

  #refuse(desired: DesiredVolume, reason: string): void {
    const { id, name } = desired;
    this.#set.refuse(desired, reason);
    this.#problems.push({ volume: { id, name }, reason });
  }

  #describe(served: ServedVolume, desired: DesiredVolume, plan: ActivePlan): void {
    const { id, name, description, contexts } = desired;
    const before = served.load.spec;
    served.describe(desired, plan);
    if (before.name === name && JSON.stringify(before.contexts) === JSON.stringify(contexts)) return;
    served.load = { ...served.load, spec: { ...before, name, description, contexts } };
    // A worker that dies meanwhile hears it with the table.
    for (const host of served.hosts()) host.describe({ id, name, description, contexts }).catch(ignoreGone);
  }

  async #follow(steps: readonly Step[]): Promise<void> {
    if (steps.length === 0) return;
    this.#lost.clear();
    const hosts = new Map<WorkerSlot, WorkerHost>();
    for (const slot of new Set(steps.map(({ served }) => served.slot))) {
      hosts.set(slot, await slot.within(WORKER_TIMEOUT_MS));
    }
    // Only now home is there to gather at.
    await Promise.all(steps.map(({ served }) => this.#set.gather(served)));
    const hostOf = (step: Step): WorkerHost => {
      const host = hosts.get(step.served.slot);
      if (host === undefined) throw new WorkerError('GONE', step.served.slot.index, 'it has ended');
      return host;
    };
    await this.#exchange(steps, hostOf);
    const bereft = this.#bereft();
    if (bereft.length > 0) await this.#exchange(bereft, hostOf);
  }

  async #exchange(steps: readonly Step[], hostOf: HostOf): Promise<void> {
    this.#stuck = null;
    const loaded = await this.#load(steps, hostOf);
    const problem = this.#stuck ?? (await this.#swap(loaded, hostOf));
    if (problem !== null) await this.#undo(loaded, hostOf, problem);
  }

  /** Loads every table. Gives what can be exchanged; the rest goes on as it was, or is no longer served. */
  async #load(steps: readonly Step[], hostOf: HostOf): Promise<readonly Step[]> {
    // What is new may get ready while the others go on, unless one of these still has extents that it is to have.
    const isFree = steps.every((step) => step.isNew || keepsExtents(step.served.load.spec, step.load.spec));
    const specOf = ({ load: { spec }, isNew }: Step): VolumeSpec => (isNew && isFree ? { ...spec, isNew } : spec);
    const answers = await Promise.all(byHost(steps, hostOf).map(([host, own]) => host.load(own.map(specOf))));
    const failed = new Map(
      answers.flat().flatMap(({ id, problem }) => (problem === undefined ? [] : [[id, problem] as const])),
    );
    // Origins come last: what becomes of one depends on its snapshots.
    for (const step of steps.toSorted((a, b) => namedBy(a).length - namedBy(b).length)) {
      const problem = failed.get(step.served.id);
      if (problem === undefined) continue;
      const reason = `its new table can't be loaded: ${problem}`;
      if (!(await this.#stays(step, reason, steps, hostOf))) await this.#drop(step, problem);
    }
    const good: Step[] = [];
    const mute: Step[] = [];
    for (const step of steps) {
      if (failed.has(step.served.id)) continue;
      const reason = lossOf(step.load.spec, this.#lost);
      if (reason === null) good.push(step);
      else if (!(await this.#stays(step, reason, steps, hostOf))) mute.push(muted(step, reason));
    }
    const left = good.filter(({ served }) => !this.#lost.has(served.id));
    return mute.length === 0 ? left : [...left, ...(await this.#load(mute, hostOf))];
  }

  /** Lets a volume go on with the table that it has, without snapshots that were to begin with the new one. Gives whether it can. */
  async #stays(step: Step, reason: string, all: readonly Step[], hostOf: HostOf): Promise<boolean> {
    const { served, load, desired } = step;
    if (!served.live || served.held) return false;
    const [before, after] = [served.load.spec, load.spec];
    const named = mayStay(before, after, this.#lost) ? [] : namedBy(step).filter((id) => !this.#lost.has(id));
    const fresh = all.filter((other) => other.isNew && named.includes(other.served.id));
    const lost = new Set([...this.#lost.keys(), ...fresh.map((other) => other.served.id)]);
    if (!mayStay(before, after, lost)) return false;
    for (const other of fresh) await this.#drop(other, `${desired.name} goes on without it: ${reason}`);
    await hostOf(step).clear([served.id]);
    this.#stay(served, desired, reason);
    return true;
  }

  async #drop(step: Step, problem: string): Promise<void> {
    this.#lost.set(step.served.id, `its snapshot ${step.desired.name} can't be loaded: ${problem}`);
    this.#set.fail(step.desired.name, problem);
    const isGone = await this.#set.retire(step.served, problem);
    this.#refuse(step.desired, problem);
    // What is new has only what nobody else is to have.
    if (!isGone && !step.isNew) this.#stuck = `${step.desired.name} can't be let go: its device does not answer`;
  }

  /** Origins whose live tables name what is lost: they did not change, or it was lost after them. They take no writes from now on. */
  #bereft(): readonly Step[] {
    return this.#desired.flatMap((desired) => {
      const { plan } = desired;
      const served = this.#set.servedById(desired.id);
      const reason = served?.shown === true ? lossOf(served.load.spec, this.#lost) : null;
      if (!plan.active || served === undefined || reason === null) return [];
      const { load, planKey: key } = served;
      return [muted({ desired, plan: { ...plan, key }, served, load, isNew: false }, reason)];
    });
  }

  /** Suspends all, then resumes all with their new tables, and what is new. Gives why some can't be suspended; null: all went well. */
  async #swap(all: readonly Step[], hostOf: HostOf): Promise<string | null> {
    const steps = all.filter(({ isNew }) => !isNew);
    const [host, other] = new Set(steps.map(hostOf));
    if (host !== undefined && other === undefined) return this.#swapTogether(host, all, hostOf);
    // A worker that dies now does not give them to the next one before all are suspended.
    for (const { served } of steps) served.held = true;
    const answers = await Promise.all(
      byHost(steps, hostOf).map(([host, own]) => {
        const ids = own.filter(({ served }) => served.liveOn === host).map(({ served }) => served.id);
        return host.suspend({ ids, timeoutMs: SUSPEND_TIMEOUT_MS, keepsDevices: own.every(keepsPlace) });
      }),
    );
    const problem = answers.flat().find((answer) => answer.problem !== undefined)?.problem;
    if (problem !== undefined) return problem;
    // Nothing does I/O by its old table any more. What changed comes first, and what it may wait for in the same turn of its worker.
    await this.#resume([...steps, ...all.filter(({ isNew }) => isNew)], hostOf);
    return null;
  }

  /** In one go, without a way to the worker and back while they are suspended: all are with the same one. */
  async #swapTogether(host: WorkerHost, all: readonly Step[], hostOf: HostOf): Promise<string | null> {
    const steps = all.filter(({ isNew }) => !isNew);
    const others = all.filter(({ isNew }) => isNew);
    const beside = others.filter((other) => hostOf(other) === host);
    const before = steps.map(({ served }) => ({ served, load: served.load }));
    for (const { served, load } of steps) served.load = load;
    const answers = await host.swap({
      ids: steps.map(({ served }) => served.id),
      begin: beside.map(({ served }) => served.id),
      timeoutMs: SUSPEND_TIMEOUT_MS,
      keepsDevices: steps.every(keepsPlace),
    });
    const byId = new Map(answers.map((answer) => [answer.id, answer]));
    const answerOf = ({ served }: Step): (typeof answers)[number] | undefined => byId.get(served.id);
    if (steps.every((step) => answerOf(step)?.problem !== undefined || answerOf(step) === undefined)) {
      for (const { served, load } of before) served.load = load;
      return answers[0]?.problem ?? 'no answer';
    }
    for (const each of [...steps, ...beside]) {
      const own = answerOf(each);
      if (own?.problem === undefined && own !== undefined) this.#went(each, host, own);
      else await this.#drop(each, own?.problem ?? 'no answer');
    }
    const elsewhere = others.filter((other) => hostOf(other) !== host);
    await this.#resume(elsewhere, hostOf);
    return null;
  }

  /** Nothing of what was loaded becomes live. */
  async #undo(steps: readonly Step[], hostOf: HostOf, problem: string): Promise<void> {
    const reason = `a volume of its group can't be suspended or let go, so it can't follow: ${problem}`;
    const changed = steps.filter(({ isNew }) => !isNew);
    // Nothing of their tables has been written: this waits for no device.
    for (const [host, own] of byHost(changed, hostOf)) await host.clear(own.map(({ served }) => served.id));
    for (const { served, desired } of changed) {
      served.held = true;
      this.#stay(served, desired, reason);
    }
    await this.#set.resume(changed.map(({ served }) => served.id));
    // What is new may have written, and its end takes as long as its device does: meanwhile all others go on.
    const fresh = steps.filter(({ isNew }) => isNew);
    await Promise.all(fresh.map(({ served }) => this.#set.retire(served, reason)));
    for (const { desired } of fresh) this.#refuse(desired, reason);
  }

  async #resume(steps: readonly Step[], hostOf: HostOf): Promise<void> {
    for (const { served, load } of steps) served.load = load;
    const byId = new Map(steps.map((step) => [step.served.id, step]));
    await Promise.all(
      byHost(steps, hostOf).map(async ([host, own]) => {
        for (const answer of await host.resume(own.map(({ served }) => served.id))) {
          const step = byId.get(answer.id);
          if (step === undefined) continue;
          if (answer.problem === undefined) this.#went(step, host, answer);
          else await this.#drop(step, answer.problem);
        }
      }),
    );
  }

  #went(step: Step, host: WorkerHost, facts: VolumeFacts & { readonly suspendedMs: number | null }): void {
    const { served, desired, plan, isNew } = step;
    served.went(host, facts);
    this.#describe(served, desired, plan);
    this.#set.went(served, isNew);
  }
}

/** A worker that has gone has done, in its way, what was asked of it. */
export function ignoreGone(error: unknown): void {
  if (!(error instanceof WorkerError) || error.code !== 'GONE') throw error;
}
