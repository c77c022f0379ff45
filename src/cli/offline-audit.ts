/**
 * The audit record of a command that no daemon runs: what it wrote, as the daemon records what it runs.
 *
 * Invariants
 *  - A command that wrote nothing leaves no record, and costs nothing: what writes the log is loaded afterwards.
 *  - What was done is not undone because it can't be recorded: then a warning says so.
 */
import { userInfo } from 'node:os';
import type { Plan } from '../lvm/edit/plan.ts';
import { liveGroupOf } from '../lvm/live-change.ts';
import type { LiveGroup } from '../lvm/live.ts';
import type { ExitCode, Output } from './messages.ts';
import type { ConfigFile } from './settings.ts';

export class OfflineAudit {
  readonly #argv: readonly string[];
  readonly #groups = new Map<string, LiveGroup>();
  #wrote = false;

  /** `argv`: the command's name, and what follows it. */
  constructor(argv: readonly string[]) {
    this.#argv = argv;
  }

  /** Something is about to be written (null), or a plan was committed: only then its group has another sequence number. */
  readonly writing = (plan: Plan | null): void => {
    this.#wrote = true;
    const group = plan === null ? null : liveGroupOf(plan);
    if (group === null) return;
    const { seqnoBefore } = this.#groups.get(group.id) ?? group;
    this.#groups.set(group.id, { ...group, seqnoBefore });
  };

  /** Records what was written, if a log is configured. */
  async record(toml: ConfigFile | null, exitCode: ExitCode, output: Output): Promise<void> {
    const { file, max_size: maxBytes } = toml?.config.audit ?? {};
    if (!this.#wrote || file === undefined || maxBytes === undefined) return;
    const { AuditError, AuditLog } = await import('../observe/audit.ts');
    const { shortened } = await import('../observe/audit-record.ts');
    const groups = [...this.#groups.values()].map(({ id: uuid, name, seqnoBefore, seqnoAfter }) => {
      return { name, uuid, seqnoBefore, seqnoAfter };
    });
    try {
      const log = await AuditLog.open({ path: file, maxBytes });
      try {
        await log.append({
          event: 'command',
          who: self(),
          from: 'local',
          argv: shortened(this.#argv),
          exitCode,
          groups,
        });
      } finally {
        await log.close();
      }
    } catch (error) {
      if (!(error instanceof AuditError)) throw error;
      output.error(`WARNING: This command is not recorded: ${error.message}.`);
    }
  }
}

function self(): { readonly uid: number; readonly gid: number; readonly pid: number; readonly user?: string } {
  const ids = { uid: process.getuid?.() ?? -1, gid: process.getgid?.() ?? -1, pid: process.pid };
  try {
    return { ...ids, user: userInfo().username };
  } catch {
    // A user without an account.
    return ids;
  }
}
