/**
 * The devices that a command would look at, as identities that a daemon can compare with those that it holds. Loaded only when
 * there is a daemon to ask.
 */
import { dirname, resolve } from 'node:path';
import type { CommandRequest } from '../daemon/client/messages.ts';
import type { Config } from '../daemon/config-schema.ts';
import { identityAt, listDevices } from '../lvm/devices.ts';

interface Where {
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly cwd: string;
}

/** What the caller names (`given` by --devices, or the environment), null if nothing; and what lvm.toml names. */
export async function devicesOf(
  given: readonly string[],
  file: { readonly path: string; readonly config: Config } | null,
  { env, cwd }: Where,
): Promise<Pick<CommandRequest, 'devices' | 'configDevices'>> {
  const fromEnvironment = (env['ORION_LVM_DEVICES'] ?? '').split(',').filter((path) => path !== '');
  const named = given.length > 0 ? given : fromEnvironment;
  return {
    devices: named.length === 0 ? null : await identities(named.map((path) => resolve(cwd, path))),
    configDevices:
      file === null ? [] : await identities(file.config.devices.map((path) => resolve(dirname(file.path), path))),
  };
}

async function identities(specs: readonly string[]): Promise<readonly string[]> {
  if (specs.length === 0) return [];
  // What is wrong with a spec is said by the command, wherever it runs.
  const paths = await listDevices(specs, { onProblem: () => undefined });
  const found = await Promise.all(paths.map((path) => identityAt(path)));
  return found.filter((each) => each !== null);
}
