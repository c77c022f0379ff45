/**
 * The devices that a command would look at, as identities that a daemon can compare with those that it holds. Loaded only when
 * there is a daemon to ask.
 */
import { dirname, resolve } from 'node:path';
import type { Config } from '../daemon/config-schema.ts';
import { identityAt, listDevices } from '../lvm/devices.ts';

interface Where {
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly cwd: string;
}

/** Null: none are named, neither by `given` (--devices) nor by the environment nor by lvm.toml. */
export async function devicesOf(
  given: readonly string[],
  file: { readonly path: string; readonly config: Config } | null,
  { env, cwd }: Where,
): Promise<readonly string[] | null> {
  const fromEnvironment = (env['ORION_LVM_DEVICES'] ?? '').split(',').filter((path) => path !== '');
  const named = [given, fromEnvironment].find((specs) => specs.length > 0)?.map((path) => resolve(cwd, path));
  const specs = named ?? (file === null ? [] : file.config.devices.map((path) => resolve(dirname(file.path), path)));
  if (specs.length === 0) return null;
  // What is wrong with a spec is said by the command, wherever it runs.
  const paths = await listDevices(specs, { onProblem: () => undefined });
  const identities = await Promise.all(paths.map((path) => identityAt(path)));
  return identities.filter((each) => each !== null);
}
