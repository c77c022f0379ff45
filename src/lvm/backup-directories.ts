/**
 * Where backup and archive files of metadata are kept: in LVM2's directories for root on a host that has them, or where lvm.conf
 * says; else in our own, root's or the user's.
 */
import { existsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Settings } from './settings.ts';

export interface User {
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly uid: number;
}

export function backupDirectory(settings: Settings, user: User): string {
  return directory(settings, user, 'backup/backup_dir', 'backup');
}

export function archiveDirectory(settings: Settings, user: User): string {
  return directory(settings, user, 'backup/archive_dir', 'archive');
}

function directory(
  settings: Settings,
  { env, uid }: User,
  setting: 'backup/archive_dir' | 'backup/backup_dir',
  name: string,
): string {
  const shared = uid === 0 && (env['LVM_SYSTEM_DIR'] !== undefined || existsSync(settings.systemDirectory));
  return shared || settings.has(setting) ? settings.string(setting) : join(ownDirectory({ env, uid }), name);
}

function ownDirectory({ env, uid }: User): string {
  if (uid === 0) return '/var/lib/orion-lvm';
  const { XDG_STATE_HOME: state = '', HOME: home = '' } = env;
  if (state !== '') return join(state, 'orion-lvm');
  // Not a name that all users without a home would share.
  return home === '' ? join(tmpdir(), `orion-lvm-${uid}`) : join(home, '.local', 'state', 'orion-lvm');
}
