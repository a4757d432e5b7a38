import { type Agent, type IncomingHttpHeaders, request } from 'node:http'

export interface Answer {
  readonly status: number
  readonly headers: IncomingHttpHeaders
  readonly body: string
}

export interface Asking {
  /** Answered when the head has come. */
  readonly head: Promise<Answer['status']>
  readonly answer: Promise<Answer>
}

/** One request, on a connection of its own unless an agent is given. */
export function ask(
  url: string,
  options: { method?: string; body?: string; headers?: Record<string, string>; agent?: Agent } = {},
): Asking {
  const { method = 'GET', body, headers = {}, agent = false } = options
  let tellHead!: (status: number) => void
  const head = new Promise<number>(resolve => {
    tellHead = resolve
  })
  const answer = new Promise<Answer>((resolve, reject) => {
    const asked = request(url, { method, headers, agent }, response => {
      const { statusCode: status = 0, headers } = response
      tellHead(status)
      let text = ''
      response.setEncoding('utf8').on('data', chunk => {
        text += chunk
      })
      response.on('end', () => resolve({ status, headers, body: text })).on('error', reject)
    })
    asked.on('error', reject)
    asked.end(body)
  })
  answer.catch(() => {})
  return { head, answer }
}

/** The pid that answers there. */
export async function whoServes(url: string): Promise<number> {
  const { body } = await ask(`${url}/whoami`).answer
  return Number(body.split(',')[1])
}
