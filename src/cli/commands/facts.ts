/** Commands that print one fact of this program or host: formats, segtypes, systemid, tags, version. */
import { hostname } from 'node:os';
import { hostTags } from '../../lvm/settings/host.ts';
import type { Command, CommandContext } from '../command.ts';
import { EXIT, type ExitCode } from '../messages.ts';
import { hostIds } from '../scan.ts';
import { VERSION } from '../version.ts';

/** Segment types whose metadata is read and kept, as LVM2 lists them. */
const SEGMENT_TYPES: readonly string[] = [
  'linear',
  'striped',
  'zero',
  'error',
  'snapshot',
  'mirror',
  'raid0',
  'raid0_meta',
  'raid1',
  'raid10',
  'raid10_near',
  'raid4',
  'raid5',
  'raid5_n',
  'raid5_la',
  'raid5_ls',
  'raid5_ra',
  'raid5_rs',
  'raid6',
  'raid6_n_6',
  'raid6_nc',
  'raid6_nr',
  'raid6_zr',
  'raid6_ls_6',
  'raid6_rs_6',
  'raid6_la_6',
  'raid6_ra_6',
  'thin-pool',
  'thin',
  'cache-pool',
  'cache',
  'vdo',
  'vdo-pool',
  'writecache',
  'integrity',
];

function fact(
  summary: string,
  linesOf: (context: CommandContext) => readonly string[] | Promise<readonly string[]>,
): Command {
  return {
    summary,
    argumentsUsage: '',
    options: [],
    async run(context): Promise<ExitCode> {
      for (const line of await linesOf(context)) context.output.print(line);
      return EXIT.ok;
    },
  };
}

export const formats: Command = fact('List available metadata formats', () => ['lvm2']);

export const segtypes: Command = fact('List available segment types', () => SEGMENT_TYPES);

export const systemid: Command = fact('Display the system ID, if any, currently set on this host', (context) => [
  `system ID: ${hostIds(context).systemId ?? ''}`,
]);

export const tags: Command = fact('List tags defined on this host', ({ settings }) =>
  hostTags(
    settings.layers.map(({ nodes }) => nodes),
    hostname(),
  ),
);

export const version: Command = fact('Display software and driver version information', () => [
  `Orion LVM version: ${VERSION}`,
]);
