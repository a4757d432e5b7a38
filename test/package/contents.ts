import type { PackedFile, Tarball } from './tarball.js'

type Rule = readonly [pattern: RegExp, mostBytes: number, optional?: '?']

/** Files that the tarball may have, each kind with the most bytes of a file. A file without `?` must be there. */
const FILES: readonly Rule[] = [
  [/^package\.json$/, 5_500],
  [/^(?:README|\.github\/SECURITY)\.md$/, 12_000],
  [/^CHANGELOG\.md$/, 56_000],
  [/^LICENSE$/, 12_000],
  [/^dist\/THIRD-PARTY-NOTICES\.txt$/, 47_000],
  [
    /^dist\/(?:index|proxy|operator|adapter|errors|stores|sources|ws|streams|socket-io|config-worker)\.js$/,
    2_000,
  ],
  [
    /^dist\/modules\/(?:index|proxy|operator|adapter|errors|stores|sources|ws|streams|socket-io)\.js$/,
    275_000,
  ],
  [/^dist\/modules\/chunk-\w+\.js$/, 700_000, '?'],
  [/^dist\/fd-broker\.1$/, 83_500],
  [/^dist\/auto\.js$/, 1_000],
  [/^dist\/auto\.cjs$/, 34_500],
  [/^dist\/started\.cjs$/, 4_000],
  [/^dist\/(?:cli|load)\.cjs$/, 26_500],
  [/^dist\/program\.cjs$/, 2_030_000],
  [/^dist\/timeline\.cjs$/, 602_000],
  [/^dist\/library\.cjs$/, 1_555_000],
  [/^dist\/(?:bundled\.js|lazy\.cjs)$/, 1_000],
  [/^dist\/(?:msgpackr|js-yaml|prom-client|convert)\.cjs$/, 200_000],
  [
    /^dist\/types\/(?:index|proxy|operator|adapter|errors|stores|sources|ws|streams|socket-io)\.d\.ts$/,
    3_000,
  ],
  [/^dist\/types\/auto\.d\.c?ts$/, 3_000],
  [/^dist\/types\/declarations\.d\.ts$/, 175_000],
  [/^prebuilds\/linux-(?:x64|arm64)\/fd-broker\.(?:glibc|musl)\.node$/, 120_000],
  [/^prebuilds\/darwin-(?:x64|arm64)\/fd-broker\.node$/, 120_000],
]
/** Bytes of the whole, which are also those that an installation brings. */
export const MOST_UNPACKED = 6_525_000
/** The limit of the whole, and of all files not below `prebuilds/`: a checkout may be without, and the gate sees growth there. */
const MOST = {
  // Some forty besides the pieces that the bundler shares between entries: one more or less comes with any import.
  filesWithoutAddons: 125,
  packed: 2_030_000,
  packedWithoutAddons: 2_032_000,
  // 2_820_000 before some fifty mends of 2026-11-26, which check more and say more; 3_075_000 before TLS 1.3 connections, streamed answers and
  // sessions of socket.io could move; 3_225_000 before the proxy's TLS connections and those of tls.Server could; 3_250_000 before the
  // library was also one file, for V8's code cache; 4_460_000 before the mends of 2026-11-28; 4_490_000 before a page showed an
  // upgrade; 4_560_000 before metrics; 4_585_000 before events and `top`; 4_640_000 before the
  // proxy kept its configuration; 4_680_000 before it checked and weighed its servers, and sections followed sources;
  // 4_830_000 before the proxy followed a source, and `routes apply`; 4_885_000 before it spoke TLS to servers, queued requests and had
  // the PROXY protocol, and `drain`; 4_990_000 before clients could use HTTP/2; 5_030_000 before ECharts drew the picture of an upgrade, also without a browser;
  // 5_625_000 before routes had conditions, rate limits, passwords and CORS, clients certificates, and the access log formats;
  // 5_810_000 before `convert`, forwardAuth and patterns in paths; 6_030_000 before the proxy forwarded datagrams;
  // 6_180_000 before lists of revoked certificates and TLS-ALPN-01; 6_220_000 before `convert` read sozu's and HAProxy's conditions as they do;
  // 6_305_000 before members in Python and Go answered their last requests, and pages and messages told more.
  withoutAddons: 6_352_000,
}

/**
 * Lists files that should not be in the tarball, are too large, or are missing. `whole`: as it is published, with addons for all
 * platforms; a checkout has them after `npm run prebuilds` only.
 */
export function checkContents({ files, bytes, manifest }: Tarball, whole: boolean): string[] {
  const wrong: string[] = []
  const seen = new Set<RegExp>()
  for (const { path, bytes } of files) {
    const rule = FILES.find(([pattern]) => pattern.test(path))
    if (rule === undefined) {
      wrong.push(`${path}: why is that published?`)
      continue
    }
    seen.add(rule[0])
    if (bytes > rule[1]) wrong.push(`${path}: ${bytes} bytes, more than ${rule[1]}`)
  }
  for (const [pattern, , optional] of FILES)
    if (optional === undefined && !seen.has(pattern) && (whole || !pattern.source.includes('prebuilds')))
      wrong.push(`there is no ${pattern.source}`)
  const sum = (of: readonly PackedFile[]) => of.reduce((total, file) => total + file.bytes, 0)
  const unpacked = sum(files)
  const others = files.filter(({ path }) => !path.startsWith('prebuilds/'))
  const withoutAddons = sum(others)
  if (others.length > MOST.filesWithoutAddons)
    wrong.push(`${others.length} files besides the addons, more than ${MOST.filesWithoutAddons}`)
  const packed = others.length === files.length ? MOST.packedWithoutAddons : MOST.packed
  if (bytes > packed) wrong.push(`${bytes} bytes, more than ${packed}`)
  if (unpacked > MOST_UNPACKED) wrong.push(`${unpacked} bytes unpacked, more than ${MOST_UNPACKED}`)
  if (withoutAddons > MOST.withoutAddons)
    wrong.push(`${withoutAddons} bytes besides the addons, more than ${MOST.withoutAddons}`)
  if (Object.keys(manifest.dependencies ?? {}).length > 0)
    wrong.push('it has dependencies: what it uses is inside of its files')
  for (const script of ['preinstall', 'install', 'postinstall'])
    if (manifest.scripts?.[script] !== undefined)
      wrong.push(`it has a script for ${script}: npm 12 would block it`)
  for (const bin of Object.values(manifest.bin))
    if (!files.some(({ path, executable }) => executable && path === bin.replace(/^\.\//, '')))
      wrong.push(`${bin}: it cannot be run`)
  return wrong
}
