import { readFileSync } from 'node:fs'
import { blocksIn } from '../pages/blocks.js'

/** A block of code of a page in docs/. */
export interface Block {
  readonly language: string
  /** The name in its first line: `// express.mjs`, `# edge.yaml`; '' without a name. */
  readonly file: string
  readonly text: string
}

const NAMED = /^(?:\/\/|#) ([\w.-]+\.\w+|Dockerfile)$/

export function pageText(page: string): string {
  return readFileSync(new URL(`../../docs/${page}`, import.meta.url), 'utf8')
}

/** The blocks of a page, in its order. */
export function blocksOf(page: string): Block[] {
  return blocksIn(page, pageText(page))
    .filter(({ language }) => language !== '')
    .map(({ language, text }) => ({ language, text, file: NAMED.exec(text.split('\n', 1)[0]!)?.[1] ?? '' }))
}

/** The one block of that name. */
export function blockOf(page: string, file: string): string {
  const found = blocksOf(page).filter(block => block.file === file)
  if (found.length !== 1) throw new Error(`docs/${page} shows ${file} ${found.length} times`)
  return found[0]!.text
}

/** The commands that it shows, without their comments. */
export function commandsOf(page: string): string[] {
  return blocksOf(page)
    .filter(({ language }) => language === 'sh')
    .flatMap(({ text }) => text.trim().split('\n'))
    .map(line => line.replace(/ +#.*$/, ''))
}

/** The one command of it that begins so. */
export function commandOf(page: string, begin: string): string {
  const found = commandsOf(page).filter(line => line.startsWith(begin))
  if (found.length !== 1) throw new Error(`docs/${page} shows ${begin} ${found.length} times`)
  return found[0]!
}
