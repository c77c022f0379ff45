/**
 * What of the daemon's life goes into the audit log: starts and stops, commands that change something, refusals, alerts, and
 * metadata that somebody else wrote.
 *
 * Invariants
 *  - A command's record is on disk before its end is told (`finished` settles after the append).
 *  - What was done is not undone because it can't be recorded: a log that fails is an alert, in the daemon's log and its health,
 *    and each record that could not be written is in the daemon's log instead.
 *  - Reports that nobody refused leave no record.
 */
import { readlinkSync } from 'node:fs';
import type { LiveGroup } from '../lvm/live.ts';
import type { ClientIdentity } from '../nbd/exports.ts';
import { AuditLog } from '../observe/audit.ts';
import { type Actor, type AuditedGroup, type AuditEvent, type ChainLink, shortened } from '../observe/audit-record.ts';
import { changesNothing, type Identity } from './access.ts';
import type { Accounts } from './accounts.ts';
import type { Logger } from './log.ts';
import { packageVersion } from './version.ts';

const REPEAT_MS = 60_000;

/** What became of a command (commands/runner.ts's CommandOutcome, as far as it is recorded). */
export interface FinishedCommand {
  readonly id: string;
  readonly request: { readonly name: string; readonly argv: readonly string[] };
  readonly exitCode: number;
  readonly changes: readonly { readonly groups: readonly LiveGroup[] }[];
}

interface Begun {
  readonly who: Actor;
  readonly from: string;
}

export interface TrailOptions {
  /** Null: no log is kept, and nothing here does anything. */
  readonly audit: { readonly path: string; readonly maxBytes: number } | null;
  readonly accounts: Accounts;
  readonly log: Logger;
}

export class AuditTrail {
  readonly #audit: AuditLog | null;
  readonly #accounts: Accounts;
  readonly #log: Logger;
  readonly #begun = new Map<string, Begun>();
  /** Refused exports and when they were recorded: performance.now(). */
  readonly #refusals = new Map<string, number>();
  #problem: string | null = null;

  private constructor(audit: AuditLog | null, { accounts, log }: TrailOptions) {
    this.#audit = audit;
    this.#accounts = accounts;
    this.#log = log;
  }

  /** Opens the log. Throws an AuditError. */
  static async open(options: TrailOptions): Promise<AuditTrail> {
    const { audit } = options;
    const onRotated = (last: ChainLink): void => tellPlace(options, last, 'the audit log was rotated');
    return new AuditTrail(audit === null ? null : await AuditLog.open({ ...audit, onRotated }), options);
  }

  /** Records the start. */
  async started(): Promise<void> {
    await this.#append({ event: 'start', pid: process.pid, version: packageVersion(), text: 'orion-lvmd started' });
    this.#tellPlace('the audit log goes on');
  }

  /** Why the log can't be written; null: it can, or there is none. */
  get problem(): string | null {
    return this.#problem;
  }

  begun(id: string, peer: Identity): void {
    if (this.#audit === null) return;
    this.#begun.set(id, { who: this.#actor(peer), from: placeOf(peer) });
  }

  async finished({ id, request, exitCode, changes }: FinishedCommand): Promise<void> {
    const begun = this.#begun.get(id);
    this.#begun.delete(id);
    if (begun === undefined) return;
    const groups = auditedGroups(changes.flatMap((change) => change.groups));
    const argv = shortened([request.name, ...request.argv]);
    if (groups.length === 0 && changesNothing(request.name, request.argv)) return;
    await this.#append({ event: 'command', ...begun, argv, exitCode, groups });
  }

  async refused(peer: Identity, what: readonly string[], reason: string): Promise<void> {
    await this.#append({
      event: 'refused',
      who: this.#actor(peer),
      from: placeOf(peer),
      what: shortened(what),
      reason,
    });
  }

  /** Clients ask again and again: the same refusal is recorded once in REPEAT_MS. */
  async exportRefused(client: ClientIdentity, name: string, reason: string): Promise<void> {
    const key = `${client.kind} ${name} ${reason}${shownBy(client)}`;
    const now = performance.now();
    for (const [told, at] of this.#refusals) if (now - at >= REPEAT_MS) this.#refusals.delete(told);
    if (this.#refusals.has(key)) return;
    this.#refusals.set(key, now);
    const who = client.kind === 'unix' ? this.#actor(client) : null;
    const from = `${client.kind === 'unix' ? placeOf(client) : addressOf(client)}${shownBy(client)}`;
    await this.#append({ event: 'refused', who, from, what: ['NBD export', name], reason });
  }

  async event(event: Extract<AuditEvent, { readonly event: 'alert' | 'metadata-changed' }>): Promise<void> {
    await this.#append(event);
  }

  /** Records the stop. */
  async stopped(): Promise<void> {
    await this.#append({ event: 'stop', pid: process.pid, version: packageVersion(), text: 'orion-lvmd stops' });
    this.#tellPlace('the audit log ends here for now');
  }

  /** Lets the log go. */
  async close(): Promise<void> {
    await this.#audit?.close();
  }

  async #append(event: AuditEvent): Promise<void> {
    if (this.#audit === null) return;
    try {
      await this.#audit.append(event);
      this.#problem = null;
    } catch (error) {
      this.#problem = error instanceof Error ? error.message : String(error);
      this.#log.error({ reason: this.#problem, record: event }, 'an audit record could not be written');
    }
  }

  #tellPlace(message: string): void {
    if (this.#audit !== null) tellPlace({ audit: this.#audit, log: this.#log }, this.#audit.last, message);
  }

  #actor({ uid, gid, pid }: Identity): Actor {
    const user = this.#accounts.userName(uid);
    return { uid, gid, ...(pid === undefined ? {} : { pid }), ...(user === undefined ? {} : { user }) };
  }
}

/** For `audit verify --head`: the daemon's log goes elsewhere than the audit log, and often to another machine. */
function tellPlace(
  { audit, log }: { readonly audit: { readonly path: string } | null; readonly log: Logger },
  { seq, hash }: ChainLink,
  message: string,
): void {
  log.info({ file: audit?.path, head: `${seq}:${hash}` }, message);
}

/** "unix", and the program where the system tells (it may have ended). */
function placeOf({ pid }: Identity): string {
  if (pid === undefined) return 'unix';
  try {
    return `unix ${readlinkSync(`/proc/${pid}/exe`)}`;
  } catch {
    return 'unix';
  }
}

function addressOf(client: ClientIdentity): string {
  if (client.kind === 'tcp') return `tcp:${client.address}:${client.port}`;
  return client.kind === 'vsock' ? `vsock:${client.cid}:${client.port}` : 'unknown';
}

/** Behind the place: who the client has shown to be. */
function shownBy({ tls }: ClientIdentity): string {
  if (tls === undefined) return '';
  if (tls.subject !== null) return ` dn:${tls.subject}`;
  return tls.pskName === null ? ' tls' : ` psk:${tls.pskName}`;
}

/** Each VG once: from before the first of its commits to after the last. */
function auditedGroups(groups: readonly LiveGroup[]): readonly AuditedGroup[] {
  const byId = new Map<string, AuditedGroup>();
  for (const { id, name, seqnoBefore, seqnoAfter } of groups) {
    const before = byId.get(id);
    byId.set(id, { name, uuid: id, seqnoBefore: before === undefined ? seqnoBefore : before.seqnoBefore, seqnoAfter });
  }
  return [...byId.values()];
}
