import { readdirSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('../..', import.meta.url))

/** A block of code of a page. */
export interface PageBlock {
  /** `docs/run.md:12`: its first line. */
  readonly at: string
  /** '' where the page names none. */
  readonly language: string
  readonly text: string
}

/** README.md and all below docs/. */
export function pages(): string[] {
  const docs = readdirSync(`${root}/docs`, { recursive: true, encoding: 'utf8' })
  return ['README.md', ...docs.filter(name => name.endsWith('.md')).map(name => `docs/${name}`)].sort()
}

export function pageText(page: string): string {
  return readFileSync(`${root}/${page}`, 'utf8')
}

export function blocksIn(page: string, text: string): PageBlock[] {
  return [...text.matchAll(/^```([^\n]*)\n(.*?)^```$/gms)].map(match => ({
    at: `${page}:${lineAt(text, match.index) + 1}`,
    language: match[1]!,
    text: match[2]!,
  }))
}

/** `fd-broker status --json`: the commands that the sentences of a page have between back-quotes. */
export function inlineCommands(page: string, text: string): PageBlock[] {
  const prose = text.replace(/^```.*?^```$/gms, block => block.replace(/[^\n]/g, ''))
  return [...prose.matchAll(/`((?:npx )?fd-broker [^`\n]+)`/g)].map(match => ({
    at: `${page}:${lineAt(prose, match.index)}`,
    language: 'sh',
    text: match[1]!,
  }))
}

/** Files that a shell writes as they stand: `cat > shop.mjs <<'END'`. */
export function heredocs({ at, text }: PageBlock): PageBlock[] {
  return [...text.matchAll(/> (\S+\.(\w+)) <<'(\w+)'\n(.*?)^\3$/gms)].map(match => ({
    at: `${at} ${match[1]}`,
    language: match[2] === 'mjs' || match[2] === 'cjs' ? 'js' : match[2]!,
    text: match[4]!,
  }))
}

function lineAt(text: string, index: number): number {
  return text.slice(0, index).split('\n').length
}
