/**
 * The daemon watching itself: numbers, metrics, alerts, and the audit trail, behind one object for the composition root.
 *
 * Invariants
 *  - Nothing that serves waits for anything here but a command's end, which waits for its audit record.
 *  - Looks at the numbers follow one another; a look that fails is logged, and the next one comes.
 *  - Whoever is refused again and again is counted (refusals.ts): neither log grows with how often he asks.
 *  - What is opened has recorded nothing: the start is `begin`'s, when all of it is this process's to tell.
 *  - Closing records the stop last, after everything that may still be recorded; of what has not begun nothing. Nothing is raised then.
 */
import type { LiveGroup } from '../lvm/live.ts';
import type { Scan } from '../lvm/model.ts';
import type { ClientIdentity } from '../nbd/exports.ts';
import { AlertSender } from '../observe/alert-sender.ts';
import { FillRates } from '../observe/fill-rates.ts';
import { shortened } from '../observe/audit-record.ts';
import { type Alert, alertOf, HealthMonitor } from '../observe/health.ts';
import { recordedSeqnos } from '../observe/audit-verify.ts';
import { MetadataWatch, NO_CHECKSUM } from '../observe/metadata-watch.ts';
import { prometheusText } from '../observe/prometheus.ts';
import type { Numbers } from '../observe/stats.ts';
import type { Identity } from './access.ts';
import { Accounts } from './accounts.ts';
import { AuditTrail, type FinishedCommand } from './audit-trail.ts';
import type { Settings } from './config.ts';
import type { Logger } from './log.ts';
import { type MetricsPlace, MetricsServer } from './metrics-server.ts';
import type { SnapshotProblem } from './snapshot-watch.ts';
import { invalidSnapshots, isComplete, numbersOf, type NumbersParts, snapshotStores } from './numbers.ts';
import { Refusals, type Untold } from './refusals.ts';

/** Reasons of volumes that nobody wants to be served (inventory.ts). */
const WISHED: ReadonlySet<string> = new Set(['deactivated', 'not in activation.auto_activation_volume_list']);

type ObserverSettings = Pick<Settings, 'audit' | 'metricsListen' | 'events'>;

export interface ObserverOptions {
  readonly settings: ObserverSettings;
  readonly log: Logger;
  /** What the daemon and its workers know now. */
  readonly gather: () => Promise<Omit<NumbersParts, 'alerts' | 'fillRateOf'>>;
  /** What the watch over snapshots could not do. */
  readonly snapshotProblems: () => readonly SnapshotProblem[];
  /** Volumes that ought to be served and aren't. */
  readonly unserved: () => readonly { readonly name: string; readonly reason: string }[];
}

export class Observer {
  readonly #options: ObserverOptions;
  readonly #trail: AuditTrail;
  #watch: MetadataWatch = new MetadataWatch(new Map());
  readonly #alerts = new Map<string, number>();
  readonly #fillRates = new FillRates();
  readonly #health: HealthMonitor;
  readonly #sender: AlertSender;
  /** Volumes that were served since the start: what never was is told at the start, and is no alert. */
  readonly #servedOnce = new Set<string>();
  #settings: ObserverSettings;
  #timer: NodeJS.Timeout | null = null;
  #looking: Promise<void> = Promise.resolve();
  /** Nothing is looked at any more, and nothing is recorded. */
  #over = false;
  #metrics: MetricsServer | null = null;
  readonly #refusals = new Refusals<Identity>((untold) => this.#refusedMore(untold));
  readonly #exportRefusals = new Refusals<ClientIdentity>(({ asker: client, count, reason }) => {
    this.#options.log.warn({ client, count, reason }, 'refused again and again');
  });

  #begun = false;

  private constructor(options: ObserverOptions, trail: AuditTrail) {
    this.#options = options;
    this.#trail = trail;
    this.#settings = options.settings;
    this.#health = new HealthMonitor(() => this.#settings.events);
    this.#sender = new AlertSender(options.settings.events, options.log);
  }

  /** Opens the audit log. Throws an AuditError. */
  static async open(options: ObserverOptions): Promise<Observer> {
    const { settings, log } = options;
    return new Observer(options, await AuditTrail.open({ audit: settings.audit, accounts: new Accounts(), log }));
  }

  /** Records the start, and goes by what was recorded before. Throws an error with the system's code where that can't be read. */
  async begin(): Promise<void> {
    this.#begun = true;
    const { audit } = this.#settings;
    await this.#trail.started();
    if (audit !== null) this.#watch = new MetadataWatch(await recordedSeqnos(audit.path));
  }

  /** Begins to look, and to answer on TCP where that is wished; `left`: where the process before did. Throws a DaemonError LISTEN_FAILED. */
  async start(left: MetricsPlace | null = null): Promise<void> {
    this.#lookLater();
    const { metricsListen: wished } = this.#settings;
    if (wished === null) return;
    const isLeft = left !== null && left.host === wished.host && left.port === wished.port;
    this.#metrics = new MetricsServer(() => this.metrics(), this.#options.log);
    await this.#metrics.listen(isLeft ? left : wished);
  }

  /** Where it answers on TCP, and by which descriptor; null: nowhere. */
  get metricsPlace(): Required<MetricsPlace> | null {
    const { metricsListen } = this.#settings;
    const fd = this.#metrics?.fd ?? null;
    return metricsListen === null || fd === null ? null : { ...metricsListen, fd };
  }

  /** What a reload changed; the audit log and where metrics listen take a restart. */
  configure({ events }: ObserverSettings): void {
    const before = this.#settings.events;
    this.#settings = { ...this.#settings, events };
    if (JSON.stringify(before) !== JSON.stringify(events)) this.#sender.configure(events);
  }

  async numbers(): Promise<Numbers> {
    return this.#numbersOf(await this.#options.gather());
  }

  #numbersOf(parts: Omit<NumbersParts, 'alerts' | 'fillRateOf'>): Numbers {
    const fillRateOf = (name: string): number => this.#fillRates.rateOf(name);
    return numbersOf({ ...parts, alerts: Object.fromEntries(this.#alerts), fillRateOf });
  }

  /** Prometheus text. */
  async metrics(): Promise<string> {
    return prometheusText(await this.numbers());
  }

  /** Compares a scan with the one before: what was changed and not by us is told. */
  scanned({ volumeGroups }: Scan): void {
    for (const change of this.#watch.compare(volumeGroups)) {
      const { name, expected, found } = change;
      const text =
        expected.checksum === NO_CHECKSUM
          ? `the metadata of volume group ${name} changed while no daemon watched: sequence number ${expected.seqno} was the last ` +
            `in the audit log, ${found.seqno} (${found.checksum}) was found`
          : `the metadata of volume group ${name} was written by somebody else: sequence number ${expected.seqno} ` +
            `(${expected.checksum}) was known, ${found.seqno} (${found.checksum}) was found`;
      void this.#trail.event({ event: 'metadata-changed', ...change });
      this.#raise(alertOf('metadata-changed', name, 'raised', text, Date.now()));
    }
  }

  /** One of our own commands is about to write these. */
  expect(groups: readonly LiveGroup[]): void {
    this.#watch.expect(groups);
  }

  begun(id: string, peer: Identity): void {
    this.#trail.begun(id, peer);
  }

  finished(outcome: FinishedCommand): Promise<void> {
    return this.#trail.finished(outcome);
  }

  refused(peer: Identity, what: readonly string[], reason: string): void {
    if (!this.#refusals.isTold(String(peer.uid), peer, reason)) return;
    this.#options.log.warn({ uid: peer.uid, pid: peer.pid, what: shortened(what), reason }, 'refused');
    void this.#trail.refused(peer, what, reason);
  }

  #refusedMore({ asker, count, reason }: Untold<Identity>): void {
    this.#options.log.warn({ uid: asker.uid, pid: asker.pid, count, reason }, 'refused again and again');
    void this.#trail.refused(asker, [`${count} more requests`], `not recorded one by one; the last: ${reason}`);
  }

  exportRefused(client: ClientIdentity, name: string, reason: string): void {
    const key = client.kind === 'tcp' ? client.address : `${client.kind} ${client.kind === 'unix' ? client.uid : ''}`;
    if (this.#exportRefusals.isTold(key, client, reason)) {
      this.#options.log.warn({ client, export: name, reason }, 'refused');
    }
    void this.#trail.exportRefused(client, name, reason);
  }

  /** Looks at the numbers now, after the look under way. */
  look(): Promise<void> {
    const looking = this.#looking.then(() => this.#look());
    this.#looking = Promise.allSettled([looking]).then(() => undefined);
    return looking;
  }

  /** Records the stop and lets the audit log go, for whoever writes it next; alerts that wait are left to `close`. */
  async letGo(): Promise<void> {
    if (this.#over) return;
    this.#over = true;
    this.#stopLooking();
    // Connections are cut, so this takes no time: whoever asks now is to be answered by who comes next.
    await this.#metrics?.close();
    this.#refusals.close();
    this.#exportRefusals.close();
    if (this.#begun) await this.#trail.stopped();
    await this.#trail.close();
  }

  /** Ends everything. Settles when alerts that wait are delivered, as far as that is possible in some seconds. */
  async close(): Promise<void> {
    this.#stopLooking();
    await this.#looking;
    await this.letGo();
    await this.#sender.close();
  }

  #stopLooking(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
  }

  async #look(): Promise<void> {
    const parts = await this.#options.gather();
    if (this.#over) return;
    const now = performance.now();
    const complete = isComplete(parts);
    if (complete) this.#fillRates.look(now, snapshotStores(parts));
    const numbers = this.#numbersOf(parts);
    for (const { name } of numbers.volumes) this.#servedOnce.add(name);
    const unserved = this.#options
      .unserved()
      .filter(({ name, reason }) => this.#servedOnce.has(name) && !WISHED.has(reason));
    const view = {
      numbers,
      now,
      complete,
      unserved,
      invalidSnapshots: invalidSnapshots(parts),
      snapshotProblems: this.#options.snapshotProblems(),
      auditProblem: this.#trail.problem,
    };
    for (const alert of this.#health.look(view)) {
      const { time: _, ...event } = alert;
      void this.#trail.event({ event: 'alert', ...event });
      this.#raise(alert);
    }
  }

  #raise(alert: Alert): void {
    const { kind, subject, state, text } = alert;
    const level = state === 'raised' ? 'warn' : 'info';
    this.#options.log[level]({ alert: kind, subject }, text);
    if (state === 'raised') this.#alerts.set(kind, (this.#alerts.get(kind) ?? 0) + 1);
    this.#sender.send(alert);
  }

  #lookLater(): void {
    this.#timer = setTimeout(() => {
      void this.look()
        .catch((err: unknown) => this.#options.log.error({ err }, 'a look at the numbers failed'))
        .finally(() => {
          if (this.#timer !== null) this.#lookLater();
        });
    }, this.#settings.events.intervalMs);
    this.#timer.unref();
  }
}
