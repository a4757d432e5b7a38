export const GET = () => Response.json({ title: 'A chair' })

export const POST = async request => Response.json({ title: (await request.json()).title }, { status: 201 })
