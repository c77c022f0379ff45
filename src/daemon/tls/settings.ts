/**
 * From [tls] of lvm.toml and the flags to what listeners offer.
 *
 * Invariants
 *  - A listener that offers TLS has something to do it with; anything else is a problem of the configuration.
 *  - Files are read here, so that a reload with wrong ones is refused as a whole.
 */
import { resolve } from 'node:path';
import type { Settings } from '../config.ts';
import type { Config } from '../config-schema.ts';
import type { Flags } from '../flags.ts';
import type { ListenAddress } from '../listen-uri.ts';
import { readTlsMaterial, type TlsMaterial } from './material.ts';
import type { TlsMode } from './mode.ts';
import type { TunnelSettings } from './tunnels.ts';

export interface TlsSettings {
  /** Null: there is nothing to do TLS with. */
  readonly material: TlsMaterial | null;
  /** For listeners that say nothing; null: required over TCP if there is material, off elsewhere. */
  readonly mode: TlsMode | null;
}

/** Adds what is wrong to `problems`, each a sentence. `directory` is the config file's. */
export function settleTls(
  { tls }: Pick<Config, 'tls'>,
  flags: Flags,
  places: { readonly cwd: string; readonly directory: string },
  problems: string[],
): TlsSettings {
  const path = (flag: string | undefined, key: string | undefined): string | null => {
    if (flag !== undefined) return resolve(places.cwd, flag);
    return key === undefined ? null : resolve(places.directory, key);
  };
  const material = readTlsMaterial(
    {
      certificates: path(flags.tlsCertificates, tls.certificates),
      pskFile: path(flags.tlsPsk, tls.psk_file),
      verifyClients: flags.tlsVerifyClients ?? tls.verify_clients,
    },
    problems,
  );
  return { material, mode: flags.tls ?? tls.mode ?? null };
}

/** What a listener's clients may, or must, do; `asked` is what it says itself, `kind` what it is bound to. */
export function tlsOf(
  { material, mode }: TlsSettings,
  { kind, tls: asked }: { readonly kind: ListenAddress['kind'] | 'stdio'; readonly tls?: TlsMode },
): TlsMode {
  return asked ?? mode ?? (kind === 'tcp' && material !== null ? 'required' : 'off');
}

/** What the processes that do TLS are started with; null: nobody is needed. */
export function tunnelSettings({ tls, limits, logLevel, logFormat }: Settings): TunnelSettings | null {
  if (tls.material === null) return null;
  const { handshakeTimeoutMs, drainTimeoutMs } = limits;
  return { material: tls.material, handshakeTimeoutMs, drainTimeoutMs, logLevel, logFormat };
}

/** Refuses listeners that offer TLS where there is nothing to do it with. */
export function checkListeners(tls: TlsSettings, listen: readonly ListenAddress[], problems: string[]): void {
  if (tls.material !== null || problems.length > 0) return;
  if (!listen.some((address) => tlsOf(tls, address) !== 'off') && (tls.mode ?? 'off') === 'off') return;
  problems.push(
    'tls: a listener is to offer TLS, and there is nothing to do it with: set tls.certificates or tls.psk_file',
  );
}
