"""The network and its starting point."""
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from data import SPECIALS

def new_model(tok):
    end, pad = tok.token_to_id(SPECIALS[2]), tok.token_to_id(SPECIALS[0])
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=1024, hidden_size=256, intermediate_size=512, num_hidden_layers=6, num_attention_heads=4, num_key_value_heads=2, head_dim=64, max_position_embeddings=2048,
        rms_norm_eps=1e-5, tie_word_embeddings=True, initializer_range=0.04, bos_token_id=None, eos_token_id=end, pad_token_id=pad, attn_implementation="sdpa"))

@torch.no_grad()
def wire(model, seed=1):
    """Starts with a circuit that copies, which a short training would otherwise spend most of its time to discover: two heads of
    layer 0 look one and two tokens back; two heads of layer 1 use what those wrote to find where the current two tokens stood
    before, and copy the token that followed there. On random repeated text it is right in about 9 of 10 cases before training."""
    g, c, hd = torch.Generator().manual_seed(seed), model.config, model.config.head_dim
    d, half, n = c.hidden_size, hd // 2, c.hidden_size // 2
    basis = lambda rows, cols: torch.linalg.qr(torch.randn(cols, rows, generator=g))[0].T  # orthonormal rows
    theta = 10000.0 ** (-torch.arange(half) / half)
    embed = model.model.embed_tokens.weight
    embed.copy_(0.125 * torch.randn(embed.shape, generator=g))
    embed[:, 0], embed[:, n:] = 0.8, 0.0  # dimension 0 is a constant; the second half is free for what the heads write
    model.model.norm.weight.fill_(0.3)
    for block in model.model.layers:  # every other head and every MLP starts silent
        block.self_attn.o_proj.weight.zero_()
        block.mlp.down_proj.weight.zero_()
    a, b = model.model.layers[0].self_attn, model.model.layers[1].self_attn
    token = torch.zeros(hd, d)
    token[:, 1:n] = basis(hd, n - 1)
    high = torch.arange(12)  # rotary pairs that turn quickly with the distance
    a.q_proj.weight[:2 * hd], a.k_proj.weight[:hd] = 0.0, 0.0
    a.k_proj.weight[high, 0], a.v_proj.weight[:hd] = 6 / 8.5, 0.39 * token
    for back in (1, 2):  # the rotary score is highest where the distance is `back`
        row = (back - 1) * hd
        a.q_proj.weight[row + high, 0] = 6 / 8.5 * torch.cos(back * theta[high])
        a.q_proj.weight[row + half + high, 0] = -6 / 8.5 * torch.sin(back * theta[high])
        a.o_proj.weight[n + row:n + row + hd, row:row + hd] = 0.39 * torch.eye(hd)
    slow = torch.cat([torch.arange(20, half), half + torch.arange(20, half)])  # dimensions that hardly turn
    now, before, values = slow[::2], slow[1::2], basis(n - 1, n - 1)
    for kv in (0, 1):
        q, k = b.q_proj.weight[2 * kv * hd:(2 * kv + 1) * hd], b.k_proj.weight[kv * hd:(kv + 1) * hd]
        q.zero_(), k.zero_()
        s, t, part = basis(len(now), hd), basis(len(before), hd), torch.zeros(hd, d)
        q[now], k[now, n:n + hd] = 3.5 * s @ token, 3.5 * s
        q[before, n:n + hd], k[before, n + hd:] = 3.5 * t, 3.5 * t
        rows = values[kv * hd:(kv + 1) * hd]
        part[:len(rows), 1:n] = rows
        b.v_proj.weight[kv * hd:(kv + 1) * hd] = 0.7 * part
        b.o_proj.weight[:, 2 * kv * hd:(2 * kv + 1) * hd] = 0.7 * part.T
