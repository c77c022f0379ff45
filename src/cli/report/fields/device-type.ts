/**
 * The fields of `devtypes`, which are of no volume group: a table of their own.
 *
 * Source: `lvm devtypes -o help` of 2.03.16.
 */
import type { ReportField } from '../field.ts';
import { fieldsOf } from './define.ts';

const make = fieldsOf('devtype');

export const DEVICE_TYPE_FIELDS: readonly ReportField[] = [
  make(
    'devtype_name',
    'DevType',
    'string',
    'Name of Device Type exactly as it appears in /proc/devices.',
    ({ deviceType }) => deviceType?.name ?? null,
  ),
  make(
    'devtype_max_partitions',
    'MaxParts',
    'number',
    'Maximum number of partitions. (How many device minor numbers get reserved for each device.)',
    ({ deviceType }) => deviceType?.maxPartitions ?? null,
  ),
  make(
    'devtype_description',
    'Description',
    'string',
    'Description of Device Type.',
    ({ deviceType }) => deviceType?.description ?? null,
  ),
];
